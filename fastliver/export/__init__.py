"""What fastliver makes, in other people's formats: DICOM MR and SEG, NIfTI, nnU-Net data sets, ONNX."""

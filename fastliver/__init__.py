"""fastliver: labelled synthetic MRI from labelled CT, and a liver U-Net that learns from it.

Implements "Cross modality medical image synthesis for improving liver segmentation" (EssNet + U-Net).
"""

__version__ = "0.1.0"

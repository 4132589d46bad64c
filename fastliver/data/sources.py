"""Finding out what a folder holds and giving its studies."""

import os
from dataclasses import dataclass
from pathlib import Path

from fastliver.data import chaos, dicom, nifti
from fastliver.data.study import Modality, Study
from fastliver.data.whereabouts import explain_no_images, other_half, refuse_above_chaos, refuse_sequence
from fastliver.errors import InputError


@dataclass(frozen=True)
class Source:
    """A folder of one modality.

    Attributes:
        path: the folder.
        modality: "CT" or "MR".
        mr_sequence: which sequence of a CHAOS tree.
        liver_label: name or number of the liver in an nnU-Net data set that calls it something else.
        skip_bad: leave out files that can't be read, instead of raising.
        patient_pattern: regular expression for the patient in the name of an nnU-Net case; None for one patient a case.
    """

    path: Path
    modality: Modality
    mr_sequence: chaos.Sequence = "t2-spir"
    liver_label: str | None = None
    skip_bad: bool = False
    patient_pattern: str | None = None

    def __post_init__(self) -> None:
        # Whole, as the names of a folder and of those above it tell what it is.
        object.__setattr__(self, "path", Path(os.path.abspath(self.path)))

    def studies(self) -> list[Study]:
        """Every study in the folder, in order; all labelled or none.

        Raises:
            InputError: for a folder that is missing, empty, of another modality or only partly labelled.
        """
        if not self.path.is_dir():
            what = "is a file" if self.path.exists() else "does not exist"
            raise InputError(f"{self.path}: {what}; name a folder with {self.modality} (CHAOS, nnU-Net raw or DICOM)")
        studies = self._find()
        labelled = [study for study in studies if study.labelled]
        if labelled and len(labelled) < len(studies):
            bare = next(study for study in studies if not study.labelled)
            raise InputError(
                f"{bare.series}: no labels for patient {bare.patient}, but {labelled[0].patient} has some; "
                "add the labels or move the unlabelled patients elsewhere"
            )
        return studies

    def _find(self) -> list[Study]:
        if nifti.is_dataset(self.path):
            return nifti.find_studies(self.path, self.modality, self.liver_label, self.patient_pattern)
        folder = chaos.modality_folder(self.path, self.modality)
        if folder is not None:
            refuse_sequence(folder)
            return chaos.find_studies(folder, self.modality, self.mr_sequence, self.skip_bad)
        other = chaos.kind(self.path)
        if other is not None:
            raise InputError(
                f"{self.path}: a CHAOS folder of {other}, but {self.modality} belongs here"
                + other_half(self.path, self.modality)
            )
        refuse_above_chaos(self.path, self.modality)
        try:
            return dicom.find_studies(self.path, self.modality, self.skip_bad)
        except dicom.NoImagesError:
            explain_no_images(self.path, self.modality)
            raise

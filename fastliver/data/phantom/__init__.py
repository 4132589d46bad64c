"""A seeded digital phantom of the abdomen: made-up patients as DICOM files and masks in CHAOS's layout."""

from fastliver.data.phantom.anatomy import Abdomen, Tissue
from fastliver.data.phantom.write import PhantomSpec, write_phantom

__all__ = ["Abdomen", "PhantomSpec", "Tissue", "write_phantom"]

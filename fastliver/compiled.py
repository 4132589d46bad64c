"""The extension `fastliver._C`, C++ and CUDA behind a stable interface: loaded here for all who call its operators."""

from pathlib import Path

import torch

LIBRARY = Path(__file__).resolve().parent / "_C.abi3.so"


def load(library: Path = LIBRARY) -> str:
    """Load the extension into `torch.ops.fastliver`; what was in the way, or nothing."""
    if not library.exists():
        return f"{library.name} was not built (no C++ compiler when the package was installed, or one that failed?)"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} did not load: {error}"
    return ""


MISSING = load()
"""Why the extension isn't there; empty when it is."""

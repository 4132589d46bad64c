"""Packaging: `fastliver`, with the folder `kernels/` as `fastliver.kernels`."""

from pathlib import Path

from setuptools import find_packages, setup

VERSION = next(
    line.split('"')[1]
    for line in Path(__file__).with_name("fastliver").joinpath("__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

LINUX = "; platform_system == 'Linux'"
NOT_MAC = "; platform_system != 'Darwin'"

REQUIRES = [
    "torch>=2.11",
    f"triton>=3.6{LINUX}",
    "numpy>=1.26",
    f"cupy-cuda13x>=14{NOT_MAC}",
    f"nvidia-dali-cuda130>=2.4{LINUX}",
    "pydicom>=3.0",
    "pylibjpeg-openjpeg>=2.3",
    "pylibjpeg-rle>=2.0",
    "pyjpegls>=1.4",
    "python-gdcm>=3.0.24",
    "nibabel>=5.2",
    "highdicom>=0.25",
    "safetensors>=0.4.5",
    "jsonargparse>=4.36",
    "pyyaml>=6.0",
    "rich>=13.7",
    "matplotlib>=3.8",
    "tensorboard>=2.16",
    "scipy>=1.12",
    "scikit-learn>=1.4",
    "pillow>=10.2",
]

TEST = ["pytest>=8", "pytest-benchmark>=5", "pytest-xdist>=3.5", "hypothesis>=6.100"]

setup(
    name="fastliver",
    version=VERSION,
    description="Labelled synthetic MRI from labelled CT (EssNet), and a liver U-Net that learns from it",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["fastliver", "fastliver.*"], exclude=["fastliver.kernels*"]),
        "fastliver.kernels",
    ],
    package_dir={"fastliver.kernels": "kernels"},
    install_requires=REQUIRES,
    extras_require={"test": TEST, "dev": [*TEST, "ruff>=0.8", "mypy>=1.13", "types-PyYAML"]},
)

"""Comparisons of fastliver with stock PyTorch and with peers."""

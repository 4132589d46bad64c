"""`python -m fastliver.info`: parameter counts, and what the compiled extension does on this machine."""

import torch

from fastliver import info


def told(capsys) -> dict[str, str]:
    """The tables' rows: first cell to second."""
    info.main([])
    rows = (line.strip("│").split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│"))
    return {name.strip(): value.strip() for name, value in rows}


def test_parameters_are_the_papers(capsys) -> None:
    assert told(capsys)["EssNet as the paper counts it (2 G + 2 D)"] == "28,256,644"


def test_the_extension_says_what_it_has(capsys, monkeypatch) -> None:
    monkeypatch.setattr(info, "MISSING", "")
    monkeypatch.setattr(info, "WINOGRAD", (torch.float32, torch.bfloat16))
    monkeypatch.setattr(info, "has_kernel", lambda device: device == "cuda")
    rows = told(capsys)
    assert (rows["C++ extension"], rows["overlap counts with CUDA"]) == ("built", "built")
    assert rows["Winograd convolutions"] == "float32 and bfloat16"
    monkeypatch.setattr(info, "WINOGRAD", ())
    monkeypatch.setattr(info, "has_kernel", lambda device: False)
    rows = told(capsys)
    assert rows["Winograd convolutions"].startswith("none: this CPU lacks AVX-512")
    assert rows["overlap counts with CUDA"].startswith("not built")


def test_without_the_extension_the_reason_is_whole(capsys, monkeypatch) -> None:
    reason = "_C.abi3.so was not built " + "(a long reason) " * 8
    monkeypatch.setattr(info, "MISSING", reason)
    rows = told(capsys)
    assert rows["C++ extension"].startswith(reason)
    assert "Winograd convolutions" not in rows

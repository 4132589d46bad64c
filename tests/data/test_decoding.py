"""Decoders that crash, hang or ask for too much memory cost one file; the next one is decoded as ever."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from fastliver.data import decoding
from fastliver.data.decoding import Decoder, decode_isolated
from fastliver.errors import InputError, RunError

PIXELS = np.random.default_rng(0).integers(0, 4000, (40, 48)).astype(np.uint16)


@pytest.fixture
def image(tmp_path, write_slice) -> Path:
    path = write_slice(tmp_path / "a.dcm", PIXELS)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)
    return path


def decoder_that(does: str, seconds: float = decoding.SECONDS) -> Decoder:
    """A decoder whose process does something to a file called bad.dcm."""
    program = f"""
import os, signal, time
import pydicom
from fastliver.data import decoding

read = pydicom.dcmread
def dcmread(path):
    if path.endswith("bad.dcm"):
        {does}
    return read(path)

pydicom.dcmread = dcmread
decoding.main()
"""
    return Decoder(seconds, (sys.executable, "-c", program))


def test_pixels_are_pydicoms(image):
    np.testing.assert_array_equal(decode_isolated(image, PIXELS.nbytes), PIXELS)


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"the decoder ended with code -11"),
        ("time.sleep(60)", r"it takes more than 1 s"),
        ("bytearray(4 << 30)", r"MemoryError"),
        ("raise ValueError('first line\\nsecond line')", r"first line second line"),
        ("os.write(1, b'printed by native code')", r"No such file"),
    ],
)
def test_what_a_file_does_to_its_decoder_costs_that_file_alone(image, does, words):
    if "bytearray" in does and not sys.platform.startswith("linux"):
        pytest.skip("memory is limited on Linux alone")
    decoder = decoder_that(does, seconds=1)
    bad = image.with_name("bad.dcm")
    with pytest.raises(InputError, match=words) as error:
        decoder.decode(bad, PIXELS.nbytes)
    assert str(error.value).startswith(f"{bad}: PixelData can't be decoded (")
    assert str(error.value).endswith("; copy the file again")
    np.testing.assert_array_equal(decoder.decode(image, PIXELS.nbytes), PIXELS)


def test_files_without_trouble_share_one_process(image):
    decoder = Decoder()
    processes = set()
    for _ in range(3):
        decoder.decode(image, PIXELS.nbytes)
        processes.add(decoder._process.pid)
    assert len(processes) == 1


def test_a_process_that_cannot_be_started_is_named():
    with pytest.raises(RunError, match="-c raise SystemExit.5.: the process that decodes .* with code 5"):
        Decoder(command=(sys.executable, "-c", "raise SystemExit(5)")).decode(Path("a.dcm"), 1)


def test_threads_have_processes_of_their_own_that_end_with_them(image):
    found = []

    def work() -> None:
        decode_isolated(image, PIXELS.nbytes)
        found.append(decoding._decoders.decoder._process)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del thread, threads
    assert len({process.pid for process in found}) == 2
    assert all(process.wait(timeout=20) is not None for process in found)


def _in_a_worker(path: Path, answers) -> None:
    answers.put(int(decode_isolated(path, PIXELS.nbytes).sum()))


@pytest.mark.parametrize("method", sorted({"fork", "spawn"} & set(multiprocessing.get_all_start_methods())))
def test_a_daemonic_worker_may_decode(image, method):
    decode_isolated(image, PIXELS.nbytes)  # a forked worker must not speak to its parent's process, nor end it
    own = decoding._decoders.decoder._process.pid
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=_in_a_worker, args=(image, answers), daemon=True)
    worker.start()
    assert answers.get(timeout=60) == PIXELS.sum()
    worker.join(timeout=20)
    assert worker.exitcode == 0
    np.testing.assert_array_equal(decode_isolated(image, PIXELS.nbytes), PIXELS)
    assert decoding._decoders.decoder._process.pid == own


def test_importing_starts_nothing_and_a_program_leaves_nothing_behind(image):
    program = f"""
import os, sys
from pathlib import Path
import fastliver.data.dicom
from fastliver.data import decoding
assert not hasattr(decoding._decoders, "decoder")
decoding.decode_isolated(Path({str(image)!r}), 100)
print(decoding._decoders.decoder._process.pid)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert gone(int(done.stdout))


def test_a_killed_program_leaves_nothing_behind(image):
    program = f"""
import time
from pathlib import Path
from fastliver.data import decoding
decoding.decode_isolated(Path({str(image)!r}), 100)
print(decoding._decoders.decoder._process.pid, flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as running:
        number = int(running.stdout.readline())
        running.kill()
    assert gone(number)


def gone(number: int) -> bool:
    """Whether a process ends within some seconds."""
    for _ in range(200):
        try:
            os.kill(number, 0)
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # nobody waits for it here, but it has ended
        except OSError:
            return True
        time.sleep(0.1)
    return False

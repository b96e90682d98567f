import errno
import fcntl
import hashlib
import pickle
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from regularization.data import readers
from regularization.data.readers import download_cifar, read_cifar, read_digits, stratified_split
from regularization.errors import UserError

Source = type[torchvision.datasets.CIFAR10]


def write_batch(path: Path, content: dict[str, object]) -> tuple[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path.name, hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(params=["labels", "fine_labels"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """A data set laid out as CIFAR-10 or CIFAR-100, of three training and two test images."""
    rng = np.random.default_rng(0)

    def batch(count: int) -> dict[str, object]:
        return {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            request.param: [i % 2 for i in range(count)],
        }

    folder = tmp_path / "tiny"
    train = [write_batch(folder / "one", batch(2)), write_batch(folder / "two", batch(1))]
    test = [write_batch(folder / "three", batch(2))]
    name, md5 = write_batch(folder / "meta", {"names": ["cat", "dog"]})
    attributes = {
        "base_folder": "tiny",
        "train_list": train,
        "test_list": test,
        "meta": {"filename": name, "key": "names", "md5": md5},
    }
    return type("Tiny", (torchvision.datasets.CIFAR10,), attributes)


def test_reads_every_image(tiny: Source, tmp_path: Path) -> None:
    images = read_cifar(tiny, tmp_path, train=True)
    first = pickle.loads((tmp_path / "tiny" / "one").read_bytes())["data"]
    # CIFAR's rows are the red, green and blue planes, each row by row.
    assert images.pixels[1, 2, 5, 7] == first[1, 2 * 1024 + 5 * 32 + 7]
    assert images.pixels.shape == (3, 3, 32, 32)
    assert images.pixels.dtype == torch.uint8
    assert images.labels.tolist() == [0, 1, 0]
    assert images.classes == ("cat", "dog")
    assert len(read_cifar(tiny, tmp_path, train=False)) == 2


def test_a_changed_file_is_rejected_before_it_is_unpickled(
    tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny" / "two"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(UserError, match=r"two is damaged .*\nDelete it"):
        readers._read_pickle(path, dict(readers._files(tiny))["two"])


def test_an_absent_data_set_without_network(tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(readers, "download_and_extract_archive", unreachable)
    download_cifar(tiny, tmp_path)  # all files are there: nothing is downloaded
    with pytest.raises(UserError, match="no route to host") as error:
        download_cifar(tiny, tmp_path / "elsewhere")
    assert str(tmp_path / "elsewhere" / "tiny") in str(error.value)
    assert "cifar-10-python.tar.gz" in str(error.value)
    assert "configs/quickstart.yaml" in str(error.value)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server on this machine that serves the files in ``tmp_path``."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Keeps requests off the stderr that the test checks."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_of_several_processes_one_downloads(tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = tmp_path / "shared" / "data"
    fetched = []

    def fetch(*_: object, **__: object) -> None:
        fetched.append(1)
        for file in (tmp_path / "tiny").iterdir():
            time.sleep(0.05)
            (into / "tiny").mkdir(exist_ok=True)
            shutil.copy(file, into / "tiny")

    monkeypatch.setattr(readers, "download_and_extract_archive", fetch)
    waiting = [threading.Thread(target=download_cifar, args=(tiny, into)) for _ in range(4)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    assert len(fetched) == 1
    assert [path.name for path in into.iterdir()] == ["tiny"]
    assert len(read_cifar(tiny, into, train=True)) > 0


@pytest.mark.parametrize("complete", [False, True])
def test_a_download_without_locks(
    complete: bool, tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have no locks; the lock file is left over from a download that was killed."""

    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    def fetch(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    monkeypatch.setattr(readers, "download_and_extract_archive", fetch)
    root = tmp_path if complete else tmp_path / "elsewhere"
    root.mkdir(exist_ok=True)
    (root / readers.LOCK).touch()
    if complete:
        download_cifar(tiny, root)
    else:
        with pytest.raises(UserError, match="no route to host"):
            download_cifar(tiny, root)
    assert not (root / readers.LOCK).exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_download_shows_its_progress_on_terminals_only(
    terminal: bool,
    tiny: Source,
    served: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "gztar", tmp_path, "tiny"))
    monkeypatch.setattr(tiny, "url", f"{served}/{archive.name}")
    monkeypatch.setattr(tiny, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    download_cifar(tiny, tmp_path / "elsewhere")
    assert len(read_cifar(tiny, tmp_path / "elsewhere", train=True)) == 3
    assert ("100%" in capsys.readouterr().err) == terminal


def test_digits() -> None:
    from sklearn.datasets import load_digits

    train, test = read_digits(train=True), read_digits(train=False)
    assert (len(train), len(test)) == (1437, 360)
    assert train.pixels.shape[1:] == (3, 8, 8)
    everything = torch.cat([train.pixels, test.pixels])[:, 0].flatten(1)
    expected = (load_digits().data * 255 / 16).round().astype(np.uint8)
    assert Counter(map(bytes, everything.numpy())) == Counter(map(bytes, expected))
    shares = torch.bincount(test.labels) / torch.bincount(torch.cat([train.labels, test.labels]))
    assert ((shares - 0.2).abs() < 0.01).all()


@settings(max_examples=40)
@given(st.lists(st.integers(10, 60), min_size=2, max_size=6), st.floats(0.1, 0.5), st.integers(0, 100))
def test_split_keeps_every_class_in_proportion(sizes: list[int], fraction: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels))]
    kept, held = stratified_split(labels, fraction, seed)
    assert sorted(torch.cat([kept, held]).tolist()) == list(range(len(labels)))
    counts = torch.bincount(labels[held], minlength=len(sizes))
    # The number of held-out images is rounded up; each class has its share of them, plus or minus one.
    share = len(held) / len(labels) * torch.tensor(sizes)
    assert ((counts - share).abs() <= 1 + 1e-6).all()
    again = stratified_split(labels, fraction, seed)
    assert torch.equal(held, again[1])


def test_cifar_equals_what_torchvision_reads(cifar_root: str) -> None:
    for train in (True, False):
        images = read_cifar(torchvision.datasets.CIFAR10, Path(cifar_root), train)
        reference = torchvision.datasets.CIFAR10(cifar_root, train=train)
        assert np.array_equal(images.pixels.numpy(), reference.data.transpose(0, 3, 1, 2))
        assert images.labels.tolist() == reference.targets
        assert list(images.classes) == reference.classes

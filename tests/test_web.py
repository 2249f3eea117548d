"""`mimo-codec demo`: what its server gives to whom, and the page of examples/web in a browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error

from mimo_codec import AudioCodes, MimoCodec, load_audio, resample, save_audio
from mimo_codec.cli import demo_server
from mimo_codec.cli.demo_server import GRAPHS, HOST, MIME_TYPES, find_graphs, make_server, page_root, served_files

SPEECH = ROOT / "examples" / "speech.wav"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


# ---- the server ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_graphs(tmp_path: Path) -> Path:
    """A folder with files in the place of graphs, and with more that must stay private."""
    folder = tmp_path / "graphs"
    folder.mkdir()
    for name in GRAPHS:
        (folder / name).write_bytes(b"graph")
    (folder / "private.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "private.html").write_text("secret", encoding="utf-8")
    return folder


@contextmanager
def running(graphs: Path) -> Iterator[int]:
    """A server in a thread of this process; yields its port."""
    with make_server(served_files(page_root(), graphs), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str | None, bytes]:
    """Status, type and body; the path goes out as it is."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Content-Type"), answer.read()


def test_the_page_is_served_whole_and_with_its_types(no_graphs):
    page = page_root()
    with running(no_graphs) as port:
        assert get(port, "/") == get(port, "/index.html?x=1")
        for path in page.rglob("*"):
            url = "/" + path.relative_to(page).as_posix()
            if path.suffix in MIME_TYPES:
                assert get(port, url) == (200, MIME_TYPES[path.suffix], path.read_bytes())
        assert get(port, "/main.js")[1].startswith("text/javascript")
        assert get(port, "/vendor/ort-wasm-simd-threaded.wasm", "HEAD") == (200, "application/wasm", b"")
        assert get(port, "/graphs/encoder.onnx")[2] == b"graph"


@pytest.mark.parametrize(
    "path",
    [
        "/../private.html",
        "/graphs/../private.html",
        "/graphs/../../private.html",
        "/%2e%2e/private.html",
        "/graphs/private.txt",
        "/graphs/",
        "/vendor",
        "//etc/passwd",
        "/etc/passwd",
        "private.html",
        "/..\\private.html",
        "/vendor/README.md",
    ],
)
def test_nothing_else_is_served(no_graphs, path):
    with running(no_graphs) as port:
        status, _, body = get(port, path)
    assert status == 404 and b"secret" not in body


def test_only_this_machine_is_served(no_graphs):
    with running(no_graphs) as port:
        assert make_server({}, 0).server_address[0] == "127.0.0.1"
        others = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {HOST}
        for address in others:
            with pytest.raises(OSError):
                socket.create_connection((address, port), timeout=2)


def test_bad_input_is_one_line(run, no_graphs, tmp_path):
    with running(no_graphs) as port:
        assert_one_line_error(run("demo", "--port", port, "--graphs", no_graphs), f"port {port}", "in use", "--port")
    assert_one_line_error(run("demo", "--port", 0, "--graphs", tmp_path), tmp_path, "encoder.onnx")
    assert_one_line_error(run("demo", "--port", 70000, "--graphs", no_graphs), "--port", "65535")
    (no_graphs / "decoder.onnx.data").touch()
    assert_one_line_error(run("demo", "--port", 0, "--graphs", no_graphs), "decoder.onnx", "too large")


def test_nano_is_exported_on_first_use_only(monkeypatch, tmp_path, capsys):
    exported = []

    def export(model: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        for name in GRAPHS:
            (folder / name).touch()
        exported.append(folder)

    monkeypatch.setattr(demo_server, "_export", export)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [find_graphs("nano"), find_graphs("nano")] == 2 * exported
    assert exported[0].is_relative_to(tmp_path / "mimo-codec")
    assert capsys.readouterr().err.count(str(exported[0])) == 1
    (exported[0] / GRAPHS[0]).unlink()
    with pytest.raises(FileExistsError):  # tried again
        find_graphs("nano")


@contextmanager
def demo(graphs: Path) -> Iterator[str]:
    """The command in a process of its own; yields the address it prints, then interrupts it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mimo_codec", "demo", "--port", "0", "--graphs", str(graphs)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (130, "", "mimo-codec: error: interrupted\n")
    finally:
        process.kill()


def test_interrupt_ends_it(no_graphs):
    with demo(no_graphs) as address:
        assert address.startswith(f"http://{HOST}:")


# ---- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec() -> MimoCodec:
    return MimoCodec.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def graphs(codec: MimoCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    from mimo_codec.onnx.codec.export import export_codec

    folder = tmp_path_factory.mktemp("graphs") / "exported"
    export_codec(codec, folder, graphs=("encoder", "decoder"))
    return folder


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium of the system."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the dev extra")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: the page is not tested")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
            + ["--no-sandbox"] * root,  # which Chromium does not start without when it is root
        )
        yield browser
        browser.close()


class Watched:
    """A page, and whatever it asked for or complained about."""

    def __init__(self, browser, address: str):
        self.page = browser.new_page(viewport={"width": 1200, "height": 1000})
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        self.settled("ready")

    def until(self, expression: str, seconds: float = 120) -> None:
        """Wait; playwright's own way is forbidden by the page's security policy."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(50)

    def settled(self, state: str) -> None:
        self.until("['ready', 'error'].includes(document.body.dataset.state)")
        assert self.page.get_attribute("body", "data-state") == state, self.page.inner_text("#error")

    def open(self, path: Path, state: str = "ready") -> None:
        self.page.set_input_files("#file", path)
        self.settled(state)

    def look(self, expression: str):
        return json.loads(self.page.evaluate(f"JSON.stringify({expression})"))


@pytest.fixture
def watched(browser, graphs: Path) -> Iterator[Watched]:
    with demo(graphs) as address:
        watched = Watched(browser, address)
        yield watched
        watched.page.close()
        assert not watched.complaints
        assert watched.requests and all(url.startswith((address, f"blob:{address}")) for url in watched.requests)


def test_the_page_opens_with_an_example(watched):
    assert watched.page.inner_text("#status") == "This is an example: open a file with speech, or record some."
    assert watched.page.inner_text("#duration") == "11.0 s" and watched.page.is_visible("#codes")
    assert watched.look("mimoCodec.original.length") == watched.look("mimoCodec.reconstruction.length")


@pytest.mark.parametrize("rate", [None, 16000, 24000, 44100])
def test_speech_in_the_browser_is_coded_as_by_python(watched, codec, tmp_path, rate):
    """At the file's own rate (22,050 Hz, in a WAV file) and at others (in FLAC files)."""
    speech = SPEECH
    if rate:
        speech = tmp_path / "speech.flac"
        save_audio(speech, resample(*load_audio(SPEECH), rate), rate)
    watched.open(speech)
    assert watched.page.inner_text("#bitrate") == "1.55 kbit/s" and watched.page.inner_text("#duration") == "11.0 s"
    waveform = np.array(watched.look("[...mimoCodec.original]"), np.float32)
    assert np.abs(waveform - resample(*load_audio(speech), codec.sample_rate).numpy()).max() < 1e-4
    assert_same_codes(watched, codec.encode(speech))


def assert_same_codes(watched: Watched, expected: AudioCodes) -> None:
    found = np.array(watched.look("mimoCodec.codes.map((row) => [...row])"))
    assert found.shape == expected.codes.shape
    share = (found == expected.codes.numpy()).mean()
    print(f"{100 * share:.3f} % of {found.size} codes are those of Python")
    assert share >= 0.995


def test_the_slider_chooses_how_many_codebooks_are_decoded(watched, codec):
    page = watched.page
    watched.open(SPEECH)
    rows = torch.tensor(watched.look("mimoCodec.codes.map((row) => [...row])"))
    num_samples = watched.look("mimoCodec.original.length")
    codes = AudioCodes(rows, num_samples, codec.sample_rate, codec.frame_rate, codec.codebook_sizes)
    for count, rate in ((8, "1.55"), (3, "0.675"), (1, "0.25")):
        page.fill("#codebooks", str(count))
        watched.until(f"mimoCodec.count === {count}")
        watched.settled("ready")
        assert page.inner_text("#bitrate") == f"{rate} kbit/s" and page.inner_text("#count") == str(count)
        decoded = np.array(watched.look("[...mimoCodec.reconstruction]"), np.float32)
        expected = codec.decode(codes.first(count)).numpy()
        assert decoded.shape == expected.shape == (num_samples,)
        assert np.abs(decoded - expected).max() < 1e-4


def test_everything_is_drawn_and_fits_a_phone(watched):
    page = watched.page
    watched.open(SPEECH)
    assert page.evaluate("crossOriginIsolated")  # threads
    for name in ("original", "reconstruction"):
        watched.until(f"document.getElementById('{name}-audio').duration > 11")
        assert painted(page, f"{name}-waveform") > 1 and painted(page, f"{name}-spectrogram") > 100
    assert painted(page, "codes") > 50
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    watched.until("document.getElementById('codes').width <= 360 * devicePixelRatio")


def painted(page, canvas: str) -> int:
    """Different pixels of a canvas."""
    return page.evaluate(f"""() => {{
        const canvas = document.getElementById("{canvas}");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return new Set(new Uint32Array(pixels.buffer)).size;
    }}""")


def test_the_microphone_is_coded_and_bad_files_are_one_sentence(watched, tmp_path):
    page = watched.page
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"this is no audio")
    watched.open(bad, "error")
    assert page.inner_text("#error") == ("The sound could not be coded: this is no audio that the browser can read.")
    page.click("#record")
    page.wait_for_selector("#record[aria-pressed=true]")
    page.wait_for_timeout(600)
    page.click("#record")
    watched.until("mimoCodec.reconstruction !== null")
    watched.settled("ready")
    assert page.is_hidden("#error")
    assert 0.3 * 24000 < watched.look("mimoCodec.original.length") == watched.look("mimoCodec.reconstruction.length")


def test_while_recording_nothing_plays_and_nothing_is_decoded(watched):
    page = watched.page
    watched.open(SPEECH)
    players = "[...document.querySelectorAll('audio')].map((player) => player.paused)"
    page.evaluate("Promise.all([...document.querySelectorAll('audio')].map((player) => player.play()))")
    assert watched.look(players) == [False, False]
    page.click("#record")
    page.wait_for_selector("#record[aria-pressed=true]")
    watched.settled("ready")
    assert watched.look(players) == [True, True] and page.is_disabled("#codebooks") and page.is_disabled("#file")
    assert page.inner_text("#status") == "Recording …" and page.inner_text("#record") == "Stop"
    page.wait_for_timeout(300)
    page.click("#record")
    watched.until("mimoCodec.original.length < 10 * 24000 && mimoCodec.reconstruction !== null")
    watched.settled("ready")
    assert page.is_enabled("#codebooks")


def test_files_that_are_too_long_are_not_decoded(watched, tmp_path):
    page, long, untimed = watched.page, tmp_path / "long.wav", tmp_path / "untimed.mp3"
    with wave.open(str(long), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(b"\x80" * (601 * 8000))
    untimed.write_bytes(bytes(10_000_001))
    page.evaluate("OfflineAudioContext = null")
    for path, reason in (
        (long, "the file is longer than 10 minutes"),
        (untimed, "the file is larger than 10 MB and does not say how long it is"),
    ):
        watched.open(path, "error")
        assert page.inner_text("#error") == f"The sound could not be coded: {reason}."


def test_graphs_of_two_codecs_are_one_sentence(browser, graphs, tmp_path):
    shutil.copy(graphs / "encoder.onnx", tmp_path)
    other = re.sub(rb'(?<="export_id": ").{4}', b"beef", (graphs / "decoder.onnx").read_bytes(), count=1)
    (tmp_path / "decoder.onnx").write_bytes(other)
    assert_does_not_load(browser, tmp_path, "encoder.onnx and decoder.onnx come from different exports.")
    (tmp_path / "decoder.onnx").write_bytes(b"this is no graph")
    assert_does_not_load(browser, tmp_path, "these graphs were not exported by mimo-codec.")


def assert_does_not_load(browser, graphs: Path, reason: str) -> None:
    with demo(graphs) as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-state=error]")
        assert page.inner_text("#error") == f"The codec could not be loaded: {reason}"
        assert page.is_disabled("#file") and page.is_disabled("#record")
        page.close()

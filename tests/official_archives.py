"""Archives in the layouts of the official ones, with a few small generated images, and a server with faults."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from i2r.data.fetch import Archive, read_table

TRAIN, VAL, SBD_ONLY = ("2007_000032", "2007_000039"), ("2007_000033",), ("2008_000008",)


def image_file(seed: int, kind: str) -> bytes:
    """A small JPEG photograph, or a palette PNG with a rectangle of class 1 + seed % 20."""
    rng, file = np.random.default_rng(seed), io.BytesIO()
    if kind == "jpg":
        Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(file, "JPEG")
    else:
        image = Image.fromarray(mask(seed), "P")
        image.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
        image.save(file, "PNG")
    return file.getvalue()


def mask(seed: int) -> np.ndarray:
    """(24, 32) uint8: background 0, a rectangle with a border of 255."""
    values = np.zeros((24, 32), np.uint8)
    values[4:20, 6:26] = 255
    values[5:19, 7:25] = 1 + seed % 20
    return values


def voc() -> bytes:
    """VOCtrainval_11-May-2012.tar."""
    base = "VOCdevkit/VOC2012"
    files = {
        f"{base}/JPEGImages/{name}.jpg": image_file(i, "jpg") for i, name in enumerate(TRAIN + VAL + SBD_ONLY)
    }
    for i, name in enumerate(TRAIN + VAL):
        files[f"{base}/SegmentationClass/{name}.png"] = image_file(i, "png")
        files[f"{base}/SegmentationObject/{name}.png"] = image_file(i, "png")
        files[f"{base}/Annotations/{name}.xml"] = b"<annotation/>\n"
    for name, ids in (("train", TRAIN), ("val", VAL), ("trainval", sorted(TRAIN + VAL))):
        files[f"{base}/ImageSets/Segmentation/{name}.txt"] = "".join(f"{i}\n" for i in ids).encode()
    return tar(files)


def sbd() -> bytes:
    """benchmark.tgz."""
    base = "benchmark_RELEASE/dataset"
    files = {
        f"{base}/{name}.txt": f"{ids[0]}\n".encode() for name, ids in (("train", SBD_ONLY), ("val", VAL))
    }
    for i, name in enumerate(SBD_ONLY + VAL):
        files[f"{base}/img/{name}.jpg"] = image_file(i, "jpg")
        for folder, key in (("cls", "GTcls"), ("inst", "GTinst")):
            file = io.BytesIO()
            savemat(
                file, {key: {"Segmentation": mask(i), "CategoriesPresent": 1 + i % 20}}, do_compression=True
            )
            files[f"{base}/{folder}/{name}.mat"] = file.getvalue()
    files["benchmark_RELEASE/BENCHMARK/README"] = b"code\n"
    files["._benchmark_RELEASE"] = b"a file that macOS adds\n"
    return tar(files, "w:gz")


def coco(split: str) -> bytes:
    """train2014.zip or val2014.zip."""
    return zipped({f"{split}/COCO_{split}_{i:012d}.jpg": image_file(i, "jpg") for i in (9, 25)})


def coco_annotations() -> bytes:
    """annotations_trainval2014.zip."""
    files = {}
    for split in ("train2014", "val2014"):
        for kind in ("instances", "captions", "person_keypoints"):
            images = [
                {"id": i, "file_name": f"COCO_{split}_{i:012d}.jpg", "height": 24, "width": 32}
                for i in (9, 25)
            ]
            found = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "person"}]}
            files[f"annotations/{kind}_{split}.json"] = json.dumps(found).encode()
    return zipped(files)


def fss() -> bytes:
    """fewshot_data.zip."""
    base = "fewshot_data/fewshot_data"
    files = {"__MACOSX/._fewshot_data": b""}
    for cls in ("abacus", "zucchini"):
        for i in range(1, 11):
            files[f"{base}/{cls}/{i}.jpg"], files[f"{base}/{cls}/{i}.png"] = (
                image_file(i, "jpg"),
                image_file(i, "png"),
            )
    return zipped(files)


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for folder in sorted({str(parent) for name in files for parent in Path(name).parents} - {"."}):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted({name.rsplit("/", 1)[0] for name in files}):
            archive.writestr(f"{folder}/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


@cache
def contents() -> dict[str, bytes]:
    """The generated file for each archive of the table; made once, because archives hold the time."""
    found = {
        "voc2012": voc(),
        "sbd": sbd(),
        "sbd-train-noval": f"{SBD_ONLY[0]}\n".encode(),
        "coco2014-train": coco("train2014"),
        "coco2014-val": coco("val2014"),
        "coco2014-annotations": coco_annotations(),
        "fss1000": fss(),
    }
    return {name: found.get(name, f"weights of {name}".encode() * 500) for name in read_table()}


def served_table(files: dict[str, bytes], address: str) -> dict[str, Archive]:
    """archives.csv with the URLs, sizes and checksums of the generated files."""
    table = {}
    for name, archive in read_table().items():
        content, kind = files[name], archive.checksum.partition(":")[0]
        digest = hashlib.new(kind.removesuffix("-prefix"), content).hexdigest() if kind else ""
        table[name] = replace(
            archive,
            url=f"{address}/{archive.file}" if archive.url else "",
            bytes=len(content) if archive.bytes is not None else None,
            checksum=f"{kind}:{digest[:8] if kind.endswith('-prefix') else digest}" if kind else "",
        )
    return table


class Server(ThreadingHTTPServer):
    """Serves `files` by path. `faults` of a path happen one per request, the last of them for ever if `stuck`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.stuck = False
        self.asked: list[tuple[str, str | None]] = []
        self.etag = '"1"'
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the tests."""

    def fault(self, path: str) -> str:
        waiting = self.faults[path]
        return "" if not waiting else waiting[0] if self.stuck and len(waiting) == 1 else waiting.pop(0)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.server.asked.append((path, wanted))
        content, fault = self.server.files.get(path), self.server.fault(path)
        if fault == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
        elif fault.isdecimal() or content is None:
            self.send_response(int(fault or 404))
            self.send_header("Retry-After", "0")
            self.end_headers()
        elif fault == "login page":
            self._send(b"<html>Please log in</html>" * 20, 200, {}, "")
        elif fault == "hang up":
            self.connection.close()
        else:
            self._file(content, wanted, fault)

    def _file(self, content: bytes, wanted: str | None, fault: str) -> None:
        if fault == "wrong bytes":
            content = content[:-700] + bytes([content[-700] ^ 1]) + content[-699:]
        start, status, headers = 0, 200, {"ETag": self.server.etag}
        if wanted and fault != "no range" and self.headers.get("If-Range") in (None, self.server.etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            status = 206 if start < len(content) else 416
            given = f"{start}-{len(content) - 1}" if status == 206 else "*"
            headers["Content-Range"] = f"bytes {given}/{len(content)}"
        self._send(content[start:], status, headers, fault)

    def _send(self, body: bytes, status: int, headers: dict[str, str], fault: str) -> None:
        length = {"claims more": len(body) + 50, "claims less": len(body) - 50}.get(fault, len(body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault not in ("no length", "no length, cut"):
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault == "trickle":
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        cut = fault.endswith("cut") or fault == "stall"
        self.wfile.write(body[: len(body) // 2] if cut else body[:length])
        self.wfile.flush()
        if fault == "stall":
            time.sleep(3)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

"""The first minute: sample documents leave an object store and land in Parquet as text. ``make demo`` runs this.

Everything stays on this machine: an S3-compatible server on loopback, a Prefect flow without a server, Ray on two
cores, and the built-in model. The dataset stays in ``demo/dataset`` for a look around.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "demo"
BUCKET = "library"
QUIET = {
    "PREFECT_HOME": str(FOLDER / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DO_NOT_TRACK": "1",
    "RTPRUNE_UNIT_PAGES": "4",
}

FONT, SIZE = "cour", 40 / 3  # Courier in large print: what the built-in model reads

#: name -> the text of each page
SAMPLES: dict[str, list[str]] = {
    "method.pdf": [
        "A page becomes a grid of visual tokens. Most of a page is white, and white tokens look alike. "
        "The tokens with a large norm carry the text: they stay.",
        "The others are not lost. Optimal transport shares them out among those that stay.",
        "The ratio adapts: a crowded page keeps nearly all of its tokens, an empty one few.",
    ],
    "letters/harbour.pdf": [
        "Dear Madam, the ship left the harbour at 6:45 on Monday with 120 boxes of tea and 36 of coffee. "
        "Please send the bill, $940 in all, to the office.",
        "Yours truly, J. Watkins",
    ],
    "letters/recipe.pdf": [
        "Take 500 g of flour, 2 eggs and a pinch of salt. Knead for ten minutes, then let it rest. "
        "Bake until it is brown.",
    ],
}


def main() -> int:
    """Run the demonstration; returns the exit code."""
    begin = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    stay_on_loopback()
    os.environ.update(QUIET)
    sys.path.insert(0, str(REPOSITORY))

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        objects = upload(f"http://{host}:{port}")
        print(f"\n{objects} objects uploaded to s3://{BUCKET} on loopback\n", flush=True)

        from flows.ocr_corpus import ocr_corpus

        # one of its six documents is damaged, to show what becomes of such
        ocr_corpus(source=f"s3://{BUCKET}", output=str(FOLDER / "dataset"), model="mini", workers=1, max_failed="20%")
    finally:
        server.stop()
    show(time.monotonic() - begin)
    return 0


def stay_on_loopback() -> None:
    """Forget what would lead the demo to the caller's own store, cluster, server or settings."""
    for name in list(os.environ):
        if name.startswith(("RTPRUNE_", "RAY_", "PREFECT_", "AWS_")):
            del os.environ[name]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


def upload(endpoint: str) -> int:
    """Make the sample documents, put them into a fresh bucket, return their number."""
    import boto3

    os.environ.update(
        AWS_ENDPOINT_URL=endpoint,
        AWS_ACCESS_KEY_ID="demo",
        AWS_SECRET_ACCESS_KEY="demo",
        AWS_DEFAULT_REGION="us-east-1",
    )
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    objects = {name: pdf(pages) for name, pages in SAMPLES.items()}
    objects["letters/copy-of-recipe.pdf"] = objects["letters/recipe.pdf"]
    objects["scans/note.png"] = picture("Scanned on 22 November: 3 pages, 1 stamp.")
    objects["scans/broken.pdf"] = objects["method.pdf"][:200]
    for name, data in objects.items():
        client.put_object(Bucket=BUCKET, Key=name, Body=data)
    return len(objects)


def pdf(pages: list[str]) -> bytes:
    """A PDF of square pages, one block of text each."""
    import pymupdf

    document = pymupdf.open()
    font = pymupdf.Font(FONT)
    for text in pages:
        page = document.new_page(width=256, height=256)
        writer = pymupdf.TextWriter(page.rect)
        for row, line in enumerate(textwrap.wrap(text, width=27)):
            writer.append((14, 30 + row * 1.35 * SIZE), line, font=font, fontsize=SIZE)
        writer.write_text(page)
    data: bytes = document.tobytes()
    return data


def picture(text: str) -> bytes:
    """A page as a PNG of 512 pixels."""
    import pymupdf

    with pymupdf.open(stream=pdf([text]), filetype="pdf") as document:
        data: bytes = document[0].get_pixmap(matrix=pymupdf.Matrix(2, 2)).tobytes("png")
        return data


def show(seconds: float) -> None:
    """Print what the dataset holds now: text, tokens, failures, and where it is."""
    from rtprune.dataset import Output, read_documents, read_pages, statistics
    from rtprune.report.wording import count, duration, share_saved

    output = Output.existing(str(FOLDER / "dataset"))
    for row in sorted(read_pages(output).to_pylist(), key=lambda row: (row["uri"], row["page"])):
        before, after = row["visual_tokens_before"], row["visual_tokens_after"]
        print(f"\n{row['uri']}, page {row['page']} [{row['status']}]: {before} -> {after} visual tokens")
        print(textwrap.indent(row["text"] or "", "    "))
    print()
    for row in read_documents(output).to_pylist():
        if row["status"] != "ok":
            print(f"{row['uri']} [{row['status']}]: {row['message'] or 'the same bytes are read above'}")
    facts = statistics(output)
    saved = share_saved(facts.visual_tokens_before, facts.visual_tokens_after)
    print(
        f"\n{count(facts.page_count, 'page')}, visual tokens {facts.visual_tokens_before} -> "
        f"{facts.visual_tokens_after} ({saved} saved), {duration(seconds)}"
    )
    print(f"Parquet: {os.path.relpath(FOLDER / 'dataset' / 'pages')}/**/*.parquet")
    print("\nTry:")
    print("  .venv/bin/rtprune export demo/dataset demo/text")
    print("  .venv/bin/rtprune failures demo/dataset")
    print('  .venv/bin/rtprune sql demo/dataset "SELECT uri, pages, saved_share FROM savings"')


if __name__ == "__main__":
    sys.exit(main())

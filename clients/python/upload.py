#!/usr/bin/env python3
"""Uploads a file to a vljepa server in chunks, asks several questions about it by its name, and deletes it.

Generated code as for ask.py; then, from the repository's root:

    python clients/python/upload.py fixtures/demo/star.gif "what is happening?" "which colour does the star have?"
"""

import argparse
import hashlib
import pathlib
import sys

import grpc
from vljepa.v1 import answer_service_pb2, answer_service_pb2_grpc, media_pb2
from vljepa.v1 import media_service_pb2 as pb
from vljepa.v1 import media_service_pb2_grpc

CHUNK_BYTES = 1 << 20


def chunks(file: pathlib.Path):
    """First what the server may hold us to, then the bytes; never more than one chunk in memory."""
    with file.open("rb") as source:
        sha256 = hashlib.file_digest(source, "sha256").digest()
    yield pb.UploadMediaRequest(header=pb.UploadMediaHeader(bytes=file.stat().st_size, sha256=sha256))
    with file.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield pb.UploadMediaRequest(chunk=chunk)


def main() -> int:
    parser = argparse.ArgumentParser(description="uploads an image or a clip to a vljepa server and asks about it")
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a call")
    args = parser.parse_args()

    with grpc.insecure_channel(args.server) as channel:
        store = media_service_pb2_grpc.MediaServiceStub(channel)
        answers = answer_service_pb2_grpc.AnswerServiceStub(channel)
        try:
            upload = store.UploadMedia(chunks(args.file), timeout=args.timeout)
            print(f"{upload.name}, {upload.bytes} bytes, until {upload.expires_at.ToJsonString()}")
            for question in args.questions:
                media = media_pb2.Media(upload=upload.name)
                request = answer_service_pb2.AnswerRequest(media=media, question=question)
                print(f"{question} {answers.Answer(request, timeout=args.timeout).answer}")
            store.DeleteMedia(pb.DeleteMediaRequest(name=upload.name), timeout=args.timeout)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

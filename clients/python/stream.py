#!/usr/bin/env python3
"""Asks a vljepa server one question about many files on one call; prints each answer's embedding as it comes.

Generated code as for ask.py; then, from the repository's root:

    python clients/python/stream.py "what is happening?" fixtures/demo/*
"""

import argparse
import pathlib
import struct
import sys

import grpc
from vljepa.v1 import embedding_service_pb2 as pb
from vljepa.v1 import embedding_service_pb2_grpc, media_pb2, priority_pb2


def requests(question: str, files: list[pathlib.Path], window: int):
    """First what holds for all items, then one item a file, its id the file's place in the list. gRPC asks for the next
    one when the server reads it, so no more files than the window are in memory."""
    yield pb.StreamPredictRequest(open=pb.StreamPredictOpen(priority=priority_pb2.PRIORITY_JOB, window=window))
    for at, file in enumerate(files):
        item = pb.PredictItem(media=media_pb2.Media(inline=file.read_bytes()), question=question)
        yield pb.StreamPredictRequest(item=pb.StreamPredictItem(id=at, item=item))


def main() -> int:
    parser = argparse.ArgumentParser(description="asks a vljepa server one question about many images or clips")
    parser.add_argument("question")
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--window", type=int, default=0, help="the most files in flight; 0 leaves it to the server")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for all of them")
    args = parser.parse_args()

    failed = 0
    with grpc.insecure_channel(args.server) as channel:
        stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        try:
            for response in stub.StreamPredict(requests(args.question, args.files, args.window), timeout=args.timeout):
                kind = response.WhichOneof("message")
                if kind == "opened":
                    print(f"{response.opened.model}, window {response.opened.window}, space {response.opened.space}")
                elif kind == "result" and response.result.WhichOneof("outcome") == "prediction":
                    embedding = response.result.prediction.embedding
                    values = struct.unpack(f"<{embedding.dimensions}f", embedding.data)
                    print(f"{args.files[response.result.id]}: {', '.join(f'{value:.3f}' for value in values[:6])} ...")
                elif kind == "result":
                    print(f"{args.files[response.result.id]}: {response.result.error.message}", file=sys.stderr)
                elif kind == "finished":
                    failed = response.finished.failed
                    print(f"{response.finished.items} files, {failed} failed")
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

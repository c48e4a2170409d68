#!/usr/bin/env python3
"""Asks a vljepa server one question, with nothing but its proto files.

Once, from the repository's root (generated code is not kept in the repository):

    pip install grpcio grpcio-tools googleapis-common-protos
    python -m grpc_tools.protoc -I proto --python_out=clients/python --grpc_python_out=clients/python proto/vljepa/v1/*.proto

Then:

    python clients/python/ask.py fixtures/demo/star.gif "what is happening in the clip?"
    python clients/python/ask.py fixtures/demo/star.gif "which colour does the star have?" --choices red,green,blue
"""

import argparse
import pathlib
import struct
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2
from vljepa.v1 import answer_service_pb2, answer_service_pb2_grpc, media_pb2


def wrong_fields(error: grpc.RpcError) -> list[str]:
    """The fields that the server found wrong, as its status details tell."""
    fields = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                request = error_details_pb2.BadRequest()
                if detail.Unpack(request):
                    fields += [violation.field for violation in request.field_violations]
    return fields


def main() -> int:
    parser = argparse.ArgumentParser(description="asks a vljepa server one question about an image or a clip")
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("question")
    parser.add_argument("--choices", default="", help="answers to choose from, separated by commas")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds")
    args = parser.parse_args()

    try:
        media = args.file.read_bytes()
    except OSError as error:
        parser.error(str(error))
    request = answer_service_pb2.AnswerRequest(
        media=media_pb2.Media(inline=media),
        question=args.question,
        candidates=[choice.strip() for choice in args.choices.split(",") if choice.strip()],
        want_embedding=True,
    )
    with grpc.insecure_channel(args.server) as channel:
        stub = answer_service_pb2_grpc.AnswerServiceStub(channel)
        try:
            response = stub.Answer(request, timeout=args.timeout)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()} {wrong_fields(error)}", file=sys.stderr)
            return 1

    print(response.answer)
    for choice in sorted(response.choices, key=lambda choice: -choice.score):
        print(f"  {choice.text:20} {choice.score:.3f}")
    embedding = response.embedding
    values = struct.unpack(f"<{embedding.dimensions}f", embedding.data)
    print(f"  space {embedding.space}, {embedding.dimensions} dimensions: {', '.join(f'{value:.3f}' for value in values[:6])} ...")
    print(f"  {response.timing.total_ms:.1f} ms, {response.usage.frames_used} frames, {response.usage.visual_tokens} visual tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())

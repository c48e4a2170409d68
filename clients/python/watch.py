#!/usr/bin/env python3
"""Lets a vljepa server watch pictures as a live stream and prints what it says about them; takes the session up again when
the connection breaks.

Generated code as for ask.py; then, from the repository's root:

    python clients/python/watch.py "what is happening?" fixtures/demo/* --fps 2
"""

import argparse
import pathlib
import queue
import sys
import time

import grpc
from vljepa.v1 import media_pb2
from vljepa.v1 import watch_service_pb2 as pb
from vljepa.v1 import watch_service_pb2_grpc

BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Session:
    """What outlives a call: the token, the last event that came, and which frames have come to the server."""

    def __init__(self, stub, question: str, files: list[pathlib.Path], fps: float):
        self.stub, self.files, self.ms = stub, files, 1000 / fps
        query = pb.WatchQuery(question=question)
        self.start = pb.WatchStart(queries=[query], drop=pb.DROP_POLICY_WAIT)
        self.event = 0

    def frame(self, seq: int) -> pb.WatchRequest:
        picture = media_pb2.Frame(data=self.files[seq - 1].read_bytes(), pts_ms=round((seq - 1) * self.ms))
        return pb.WatchRequest(frame=pb.WatchFrame(seq=seq, frame=picture))

    def call(self) -> bool:
        """One call, to its end; whether the session is over."""
        requests: queue.SimpleQueue = queue.SimpleQueue()
        requests.put(pb.WatchRequest(start=self.start))
        credits, seq, stopped = 0, 0, False
        for response in self.stub.Watch(iter(requests.get, None)):
            kind, told = response.WhichOneof("message"), getattr(response, response.WhichOneof("message"))
            if kind == "started":
                credits, seq = told.credits, told.seq
                # From now on it is there: whoever comes again takes it up.
                self.start = pb.WatchStart(resume_token=told.resume_token)
            elif kind == "credit":
                credits += told.frames
            elif kind == "decode":
                print(f"{told.segment.start_ms / 1000:.1f} to {told.segment.end_ms / 1000:.1f} s: {told.text}")
            elif kind == "frame_error":
                print(f"{self.files[told.seq - 1]}: {told.error.message}", file=sys.stderr)
            elif kind == "finished":
                print(f"{told.stats.frames} frames, {told.stats.frames_encoded} encoded, {told.stats.decodes} times words")
                requests.put(None)
            if response.event:
                self.event = self.start.resume_after = response.event
                requests.put(pb.WatchRequest(ack=pb.WatchAck(event=response.event)))
            while credits and seq < len(self.files):
                credits, seq = credits - 1, seq + 1
                requests.put(self.frame(seq))
            if seq == len(self.files) and not stopped:
                stopped = True
                requests.put(pb.WatchRequest(stop=pb.WatchStop()))
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description="lets a vljepa server watch pictures as a live stream")
    parser.add_argument("question")
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--fps", type=float, default=4.0, help="pictures a second of the stream")
    args = parser.parse_args()

    with grpc.insecure_channel(args.server) as channel:
        session = Session(watch_service_pb2_grpc.WatchServiceStub(channel), args.question, args.files, args.fps)
        for attempt in range(5):
            try:
                session.call()
                return 0
            except grpc.RpcError as error:
                print(f"{error.code().name}: {error.details()}", file=sys.stderr)
                if error.code() not in BROKEN:
                    return 1
                time.sleep(2**attempt / 10)
    return 1


if __name__ == "__main__":
    sys.exit(main())

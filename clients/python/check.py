#!/usr/bin/env python3
"""Uses every call of a running vljepa server with gRPC's official client for Python, first with code generated from
the proto files, then with nothing but what reflection tells. Fails at the first thing that is not as it should be.

    python clients/python/check.py HOST:PORT ROOT

ROOT is the directory below which the server's jobs read and write. `.ci/clients` installs what it needs, generates the
code and starts the server.
"""

import hashlib
import importlib
import pathlib
import queue
import struct
import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "demo"
CLIP = (FIXTURES / "star.gif").read_bytes()
STILL = (FIXTURES / "squares.jpg").read_bytes()
SECONDS = 60
ROOT = pathlib.Path(sys.argv[2])


class Generated:
    """Messages and calls of the code that protoc wrote."""

    def __init__(self, channel: grpc.Channel):
        self.channel = channel
        services = [f"{name}_service" for name in ("answer", "embedding", "job", "media", "model", "watch")]
        files = [*services, "embedding", "media"]
        self.modules = [importlib.import_module(f"vljepa.v1.{file}_pb2") for file in files]

    def message(self, name: str):
        return next(getattr(module, name) for module in self.modules if hasattr(module, name))

    def call(self, service: str, method: str):
        stubs = importlib.import_module(f"vljepa.v1.{service.removesuffix('Service').lower()}_service_pb2_grpc")
        return getattr(getattr(stubs, f"{service}Stub")(self.channel), method)


class Reflected:
    """The same of what the server says about itself."""

    def __init__(self, channel: grpc.Channel):
        self.channel = channel
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "vljepa.v1.AnswerService" in database.get_services(), "reflection lists the services"
        self.pool = descriptor_pool.DescriptorPool(database)

    def message(self, name: str):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"vljepa.v1.{name}"))

    def call(self, service: str, method: str):
        found = self.pool.FindServiceByName(f"vljepa.v1.{service}").FindMethodByName(method)
        request, response = map(message_factory.GetMessageClass, (found.input_type, found.output_type))
        kind = f"{'stream' if found.client_streaming else 'unary'}_{'stream' if found.server_streaming else 'unary'}"
        make = getattr(self.channel, kind)
        return make(f"/vljepa.v1.{service}/{method}", request.SerializeToString, response.FromString)


def expect(code: grpc.StatusCode, call) -> grpc.RpcError:
    try:
        answer = call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}, expected {code}"
        return error
    raise AssertionError(f"expected {code}, got {answer}")


def wrong_fields(status) -> list[str]:
    fields = []
    for detail in status.details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            fields += [violation.field for violation in request.field_violations]
    return fields


def values(embedding) -> tuple[float, ...]:
    return struct.unpack(f"<{embedding.dimensions}f", embedding.data)


class Checks:
    """One method a call or a behaviour; all of them run, in the order of their lines."""

    def __init__(self, made):
        self.made = made
        self.message = made.message

    def call(self, service: str, method: str, request, timeout: float = SECONDS, **options):
        return self.made.call(service, method)(request, timeout=timeout, **options)

    def question(self, media=None, **fields):
        fields = {"question": "which colour does the star have?", "candidates": ["red", "green", "blue"], **fields}
        return self.message("AnswerRequest")(media=media or self.message("Media")(inline=CLIP), **fields)

    def item(self, media: bytes):
        return self.message("PredictItem")(media=self.message("Media")(inline=media), question="what is it?")

    def check_model(self):
        model = self.call("ModelService", "GetModel", self.message("GetModelRequest")()).model
        listed = self.call("ModelService", "ListModels", self.message("ListModelsRequest")()).models
        assert [one.name for one in listed] == [model.name] and model.limits.items_max > 0
        self.model = model

    def check_answer(self):
        answer = self.call("AnswerService", "Answer", self.question(want_embedding=True))
        best = max(answer.choices, key=lambda choice: choice.score)
        assert answer.answer == best.text and abs(sum(choice.score for choice in answer.choices) - 1) < 1e-3
        assert abs(sum(value * value for value in values(answer.embedding)) - 1) < 1e-3
        assert answer.embedding.space == self.model.space and answer.usage.frames_used > 0
        self.answer = answer

    def check_answer_in_words(self):
        assert self.call("AnswerService", "Answer", self.question(candidates=[])).answer

    def check_compressed(self):
        answer = self.call("AnswerService", "Answer", self.question(), compression=grpc.Compression.Gzip)
        assert answer.answer == self.answer.answer

    def check_predict(self):
        request = self.message("PredictRequest")(items=[self.item(CLIP), self.item(b"no picture")])
        good, bad = self.call("EmbeddingService", "Predict", request).results
        assert good.prediction.embedding.dimensions == self.model.dimensions
        assert bad.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0] and wrong_fields(bad.error) == ["items[1].media"]

    def check_encode_text(self):
        request = self.message("EncodeTextRequest")(texts=["red", "blue", "red"])
        red, blue, again = self.call("EmbeddingService", "EncodeText", request).results
        assert red.encoded.embedding == again.encoded.embedding != blue.encoded.embedding

    def check_stream_predict(self):
        request, item = self.message("StreamPredictRequest"), self.message("StreamPredictItem")
        media = [CLIP, STILL, b"no picture"]
        asked = [request(item=item(id=100 + at, item=self.item(media[at % 3]))) for at in range(9)]
        opened, *results, finished = self.call("EmbeddingService", "StreamPredict", iter(asked))
        assert opened.opened.space == self.model.space
        failed = {one.result.id for one in results if one.result.WhichOneof("outcome") == "error"}
        assert {one.result.id for one in results} == set(range(100, 109)) and failed == {102, 105, 108}
        assert (finished.finished.items, finished.finished.failed) == (9, 3)

    def check_watch(self):
        request, query = self.message("WatchRequest"), self.message("WatchQuery")
        colour = query(question="which colour does the small square have?", candidates=["red", "green", "blue", "white"])
        frame = lambda seq, data: request(
            frame=self.message("WatchFrame")(seq=seq, frame=self.message("Frame")(data=data, pts_ms=250 * seq))
        )
        requests = queue.SimpleQueue()
        requests.put(request(start=self.message("WatchStart")(queries=[colour], want_embeddings=True)))
        call = self.call("WatchService", "Watch", iter(requests.get, None))
        started = next(call).started
        assert started.space == self.model.space and started.credits == self.model.limits.watch_frames_waiting_max
        for seq in range(1, 21):
            requests.put(frame(seq, b"no picture" if seq == 7 else STILL))
        told = []
        while not told or told[-1].WhichOneof("message") != "decode":
            told += [one for one in [next(call)] if one.event]
        # The call is given up, and another one takes the session up after its first event.
        call.cancel()
        requests.put(None)
        again = queue.SimpleQueue()
        token = started.resume_token
        again.put(request(start=self.message("WatchStart")(resume_token=token, resume_after=told[0].event)))
        call = self.call("WatchService", "Watch", iter(again.get, None))
        resumed = next(call).started
        assert resumed.resume_token == token
        for seq in range(max(resumed.seq, 1), 21):
            again.put(frame(seq, STILL))
        again.put(None)
        rest = [one for one in call if one.event]
        assert [one.event for one in rest] == list(range(told[0].event + 1, rest[-1].event + 1)), rest
        decodes = [one.decode.text for one in told[:1] + rest if one.WhichOneof("message") == "decode"]
        stats = rest[-1].finished.stats
        assert decodes == ["blue"] * stats.decodes and stats.decodes > 0, decodes
        assert stats.frames == 20 and stats.frames_encoded == 1, stats
        gone = lambda: next(self.call("WatchService", "Watch", iter([request(start=self.message("WatchStart")())])))
        error = expect(grpc.StatusCode.INVALID_ARGUMENT, gone)
        assert wrong_fields(rpc_status.from_call(error)) == ["start.queries"], error.details()

    def check_upload(self):
        request, header = self.message("UploadMediaRequest"), self.message("UploadMediaHeader")
        promise = header(bytes=len(CLIP), sha256=hashlib.sha256(CLIP).digest())
        chunks = [request(chunk=CLIP[at : at + 1000]) for at in range(0, len(CLIP), 1000)]
        upload = self.call("MediaService", "UploadMedia", iter([request(header=promise), *chunks]))
        answer = self.call("AnswerService", "Answer", self.question(self.message("Media")(upload=upload.name)))
        assert [choice.score for choice in answer.choices] == [choice.score for choice in self.answer.choices]
        self.call("MediaService", "DeleteMedia", self.message("DeleteMediaRequest")(name=upload.name))
        gone = self.question(self.message("Media")(upload=upload.name))
        expect(grpc.StatusCode.NOT_FOUND, lambda: self.call("AnswerService", "Answer", gone))

    def check_job(self):
        name = f"python_{type(self.made).__name__.lower()}"
        lines = [f'{{"id": "r{row}", "text": "word {row}"}}\n' for row in range(25)] + ['{"id": "empty"}\n']
        (ROOT / f"{name}.jsonl").write_text("".join(lines))
        spec = self.message("JobSpec")(
            input=self.message("JobInput")(location=f"{name}.jsonl"),
            output=self.message("JobOutput")(location=name, rows_a_part=10),
        )
        made = self.call("JobService", "CreateJob", self.message("CreateJobRequest")(spec=spec, title=name)).job
        states = [one.job for one in self.call("JobService", "WatchJob", self.message("WatchJobRequest")(id=made.id))]
        ended = states[-1]
        assert ended.reason == "" and ended.space == self.model.space, ended
        assert (ended.progress.rows, ended.progress.succeeded, ended.progress.failed) == (26, 25, 1)
        assert (ROOT / name / "part-00002.parquet").is_file()
        listed = self.call("JobService", "ListJobs", self.message("ListJobsRequest")()).jobs
        assert made.id in [job.id for job in listed]
        (error,) = self.call("JobService", "ListJobErrors", self.message("ListJobErrorsRequest")(id=made.id)).errors
        assert (error.row, error.id, error.code) == (25, "empty", "INVALID_ARGUMENT"), error
        over = lambda: self.call("JobService", "CancelJob", self.message("CancelJobRequest")(id=made.id))
        expect(grpc.StatusCode.FAILED_PRECONDITION, over)
        self.call("JobService", "DeleteJob", self.message("DeleteJobRequest")(id=made.id, delete_output=True))
        assert not (ROOT / name / "part-00002.parquet").exists()
        gone = lambda: self.call("JobService", "GetJob", self.message("GetJobRequest")(id=made.id))
        expect(grpc.StatusCode.NOT_FOUND, gone)
        spec.output.location = "../elsewhere"
        wrong = lambda: self.call("JobService", "CreateJob", self.message("CreateJobRequest")(spec=spec))
        error = expect(grpc.StatusCode.INVALID_ARGUMENT, wrong)
        assert wrong_fields(rpc_status.from_call(error)) == ["spec.output.location"], error.details()

    def check_bad_field(self):
        error = expect(
            grpc.StatusCode.INVALID_ARGUMENT, lambda: self.call("AnswerService", "Answer", self.question(question=" "))
        )
        assert wrong_fields(rpc_status.from_call(error)) == ["question"], error.details()

    def check_unknown_model(self):
        expect(grpc.StatusCode.NOT_FOUND, lambda: self.call("AnswerService", "Answer", self.question(model="another")))

    def check_deadline(self):
        late = lambda: self.call("AnswerService", "Answer", self.question(), timeout=0.001)
        expect(grpc.StatusCode.DEADLINE_EXCEEDED, late)

    def check_cancel(self):
        call = self.made.call("AnswerService", "Answer").future(self.question())
        assert call.cancel() and call.cancelled()
        stream = self.call("EmbeddingService", "StreamPredict", iter([]))
        stream.cancel()
        expect(grpc.StatusCode.CANCELLED, lambda: list(stream))
        self.check_answer()

    def check_health(self):
        stub = health_pb2_grpc.HealthStub(self.made.channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        for service in ["", "vljepa.v1.AnswerService", "vljepa.v1.EmbeddingService"]:
            assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS).status == serving
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert next(watch).status == serving
        watch.cancel()


def main() -> None:
    names = [name for name in vars(Checks) if name.startswith("check_")]
    with grpc.insecure_channel(sys.argv[1]) as channel:
        for made in (Generated, Reflected):
            checks = Checks(made(channel))
            for name in names:
                getattr(checks, name)()
            print(f"Python, {made.__name__.lower()}: {len(names)} checks passed")


if __name__ == "__main__":
    main()

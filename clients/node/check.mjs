// Uses every call of a running vljepa server with gRPC's official client for Node, first by the proto files, then by
// what reflection tells, then one call over gRPC-Web with fetch alone. Fails at the first thing that is not as it should
// be.
//
//     node clients/node/check.mjs HOST:PORT ROOT
//
// ROOT is the directory below which the server's jobs read and write. `.ci/clients` installs what it needs and starts
// the server.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { protoPath as healthProto } from "grpc-health-check";
import reflection from "grpc-js-reflection-client";
import protobuf from "protobufjs";

const [address, jobsRoot] = process.argv.slice(2);
const root = fileURLToPath(new URL("../..", import.meta.url));
const clip = readFileSync(`${root}/fixtures/demo/star.gif`);
const still = readFileSync(`${root}/fixtures/demo/squares.jpg`);
const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const names = ["AnswerService", "EmbeddingService", "JobService", "MediaService", "ModelService", "WatchService"];
const files = names.map((name) => `${name.replace("Service", "").toLowerCase()}_service`);
const protos = files.map((file) => `vljepa/v1/${file}.proto`);

const details = protobuf.parse(`syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message Violation { string field = 1; string description = 2; }
  message BadRequest { repeated Violation field_violations = 1; }`).root;

/** Names of the fields that a refused call finds wrong. */
function wrongFields(error) {
  const [status] = error.metadata.get("grpc-status-details-bin");
  const found = details.lookupType("Status").decode(status).details;
  const wrong = found.filter((detail) => detail.typeUrl.endsWith("google.rpc.BadRequest"));
  const violations = wrong.flatMap((detail) => details.lookupType("BadRequest").decode(detail.value).fieldViolations);
  return violations.map((violation) => violation.field);
}

const byProto = () =>
  grpc.loadPackageDefinition(loader.loadSync(protos, { ...options, includeDirs: [`${root}/proto`] })).vljepa.v1;

async function byReflection() {
  const client = new reflection.GrpcReflection(address, grpc.credentials.createInsecure());
  const services = await client.listServices();
  assert(services.includes("vljepa.v1.AnswerService"), "reflection lists the services");
  const found = {};
  for (const name of names) {
    const descriptor = await client.getDescriptorBySymbol(`vljepa.v1.${name}`);
    found[name] = descriptor.getPackageObject(options).vljepa.v1[name];
  }
  return found;
}

const clients = (services) =>
  Object.fromEntries(
    names.map((name) => [name, new services[name](address, grpc.credentials.createInsecure())]),
  );

/** A unary call as a promise. */
const ask = (client, method, request, milliseconds = 60_000) =>
  new Promise((resolve, reject) => {
    const deadline = Date.now() + milliseconds;
    client[method](request, { deadline }, (error, response) => (error ? reject(error) : resolve(response)));
  });

const refused = (code) => (error) => {
  assert.equal(error.code, code, error.message);
  return true;
};

const question = { media: { inline: clip }, question: "which colour does the star have?", candidates: ["red", "blue"] };

async function answers({ AnswerService: client, ModelService: models }) {
  const { model } = await ask(models, "GetModel", {});
  const { models: listed } = await ask(models, "ListModels", {});
  assert.deepEqual(listed.map((one) => one.name), [model.name]);
  const answer = await ask(client, "Answer", { ...question, want_embedding: true });
  const best = answer.choices.reduce((a, b) => (a.score > b.score ? a : b));
  assert.equal(answer.answer, best.text);
  assert.equal(answer.embedding.space, model.space);
  assert.equal(answer.embedding.data.length, 4 * model.dimensions);
  const spoken = await ask(client, "Answer", { ...question, candidates: [] });
  assert(spoken.answer.length > 0);
  return answer;
}

async function embeddings({ EmbeddingService: client }) {
  const item = (inline) => ({ media: { inline }, question: "what is it?" });
  const { results } = await ask(client, "Predict", { items: [item(clip), item(Buffer.from("no picture"))] });
  assert.deepEqual(results.map((result) => result.outcome), ["prediction", "error"]);
  assert.equal(results[1].error.code, grpc.status.INVALID_ARGUMENT);
  const texts = await ask(client, "EncodeText", { texts: ["red", "blue", "red"] });
  const [red, blue, again] = texts.results.map((result) => result.encoded.embedding.data);
  assert(red.equals(again) && !red.equals(blue));

  const stream = client.StreamPredict({ deadline: Date.now() + 60_000 });
  for (let id = 100; id < 109; id++) {
    stream.write({ item: { id, item: item([clip, still, Buffer.from("no picture")][id % 3]) } });
  }
  stream.end();
  const told = await stream.toArray();
  const ids = told.filter((one) => one.message === "result").map((one) => one.result.id);
  assert.deepEqual(ids.sort(), [100, 101, 102, 103, 104, 105, 106, 107, 108]);
  assert.deepEqual([told[0].message, told.at(-1).finished], ["opened", { items: 9, succeeded: 6, failed: 3 }]);
}

async function watches({ WatchService: client }) {
  const candidates = ["red", "green", "blue", "white"];
  const queries = [{ question: "which colour does the small square have?", candidates }];
  const frame = (seq) => ({ frame: { seq, frame: { data: still, pts_ms: 250 * seq } } });
  const call = client.Watch();
  call.write({ start: { queries } });
  for (let seq = 1; seq <= 20; seq++) call.write(frame(seq));
  call.end();
  const told = await call.toArray();
  assert.equal(told[0].message, "started");
  const events = told.filter((one) => one.event > 0);
  assert.deepEqual(events.map((one) => one.event), events.map((_, at) => at + 1));
  const words = events.filter((one) => one.message === "decode").map((one) => one.decode.text);
  const { stats } = events.at(-1).finished;
  assert(words.length > 0 && words.every((text) => text === "blue"), words.join());
  assert.deepEqual([stats.frames, stats.frames_encoded, stats.decodes], [20, 1, words.length]);
  // What is over is there for whoever has not read its end.
  const again = client.Watch();
  const { resume_token } = told[0].started;
  again.write({ start: { resume_token, resume_after: events.length - 1 } });
  again.end();
  const [, last] = await again.toArray();
  assert.deepEqual([last.event, last.message], [events.length, "finished"]);
}

async function uploads({ AnswerService: client, MediaService: media }, answer) {
  const upload = await new Promise((resolve, reject) => {
    const call = media.UploadMedia({ deadline: Date.now() + 60_000 }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
    call.write({ header: { bytes: clip.length, sha256: createHash("sha256").update(clip).digest() } });
    for (let at = 0; at < clip.length; at += 1000) call.write({ chunk: clip.subarray(at, at + 1000) });
    call.end();
  });
  const byName = { ...question, media: { upload: upload.name } };
  assert.deepEqual((await ask(client, "Answer", byName)).choices, answer.choices);
  await ask(media, "DeleteMedia", { name: upload.name });
  await assert.rejects(ask(client, "Answer", byName), refused(grpc.status.NOT_FOUND));
}

async function jobs({ JobService: client }, name) {
  const rows = Array.from({ length: 25 }, (_, row) => `{"id": "r${row}", "text": "word ${row}"}\n`);
  writeFileSync(`${jobsRoot}/${name}.jsonl`, `${rows.join("")}{"id": "empty"}\n`);
  const input = { location: `${name}.jsonl` };
  const spec = { input, output: { location: name, rows_a_part: 10 } };
  const { job } = await ask(client, "CreateJob", { spec, title: name });
  const told = await client.WatchJob({ id: job.id }, { deadline: Date.now() + 60_000 }).toArray();
  const ended = told.at(-1).job;
  assert.equal(ended.state, "JOB_STATE_SUCCEEDED", ended.reason);
  assert.deepEqual([ended.progress.rows, ended.progress.succeeded, ended.progress.failed], [26, 25, 1]);
  assert(existsSync(`${jobsRoot}/${name}/part-00002.parquet`));
  const { jobs: listed } = await ask(client, "ListJobs", {});
  assert(listed.some((one) => one.id === job.id));
  const { errors } = await ask(client, "ListJobErrors", { id: job.id });
  assert.deepEqual(errors.map(({ row, id, code }) => [row, id, code]), [[25, "empty", "INVALID_ARGUMENT"]]);
  await assert.rejects(ask(client, "CancelJob", { id: job.id }), refused(grpc.status.FAILED_PRECONDITION));
  await ask(client, "DeleteJob", { id: job.id, delete_output: true });
  assert(!existsSync(`${jobsRoot}/${name}/part-00002.parquet`));
  await assert.rejects(ask(client, "GetJob", { id: job.id }), refused(grpc.status.NOT_FOUND));
  const outside = { spec: { input, output: { location: "../elsewhere" } } };
  await assert.rejects(ask(client, "CreateJob", outside), (error) => {
    assert.deepEqual(wrongFields(error), ["spec.output.location"]);
    return refused(grpc.status.INVALID_ARGUMENT)(error);
  });
}

async function refusals({ AnswerService: client, EmbeddingService: streams }) {
  await assert.rejects(ask(client, "Answer", { ...question, question: " " }), (error) => {
    assert.deepEqual(wrongFields(error), ["question"]);
    return refused(grpc.status.INVALID_ARGUMENT)(error);
  });
  await assert.rejects(ask(client, "Answer", { ...question, model: "another" }), refused(grpc.status.NOT_FOUND));
  await assert.rejects(ask(client, "Answer", question, 1), refused(grpc.status.DEADLINE_EXCEEDED));
  const cancelled = new Promise((resolve, reject) => {
    client.Answer(question, (error, response) => (error ? reject(error) : resolve(response))).cancel();
  });
  await assert.rejects(cancelled, refused(grpc.status.CANCELLED));
  const stream = streams.StreamPredict();
  stream.cancel();
  await assert.rejects(stream.toArray(), refused(grpc.status.CANCELLED));
  await ask(client, "Answer", question);
}

async function health() {
  const { health } = grpc.loadPackageDefinition(loader.loadSync(healthProto, options)).grpc;
  const client = new health.v1.Health(address, grpc.credentials.createInsecure());
  for (const service of ["", "vljepa.v1.AnswerService"]) {
    assert.equal((await ask(client, "Check", { service })).status, "SERVING");
  }
  const watch = client.Watch({});
  const [first] = await watch.take(1).toArray();
  assert.equal(first.status, "SERVING");
  watch.cancel();
}

/** One unary call as a browser makes it: HTTP/1.1, the message in a frame, the trailers in the last one. */
async function web(services) {
  const { requestSerialize, responseDeserialize, path } = services.ModelService.service.GetModel;
  const message = requestSerialize({});
  const frame = Buffer.concat([Buffer.alloc(5), message]);
  frame.writeUInt32BE(message.length, 1);
  const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" };
  const response = await fetch(`http://${address}${path}`, { method: "POST", headers, body: frame });
  const body = Buffer.from(await response.arrayBuffer());
  assert.equal(response.status, 200);
  const length = body.readUInt32BE(1);
  const { model } = responseDeserialize(body.subarray(5, 5 + length));
  assert(model.dimensions > 0);
  const trailers = body.subarray(5 + length);
  assert.equal(trailers[0], 0x80);
  assert.match(trailers.subarray(5).toString(), /grpc-status: ?0/i);
}

for (const [name, services] of [["proto", byProto()], ["reflection", await byReflection()]]) {
  const made = clients(services);
  const answer = await answers(made);
  await embeddings(made);
  await watches(made);
  await uploads(made, answer);
  await jobs(made, `node_${name}`);
  await refusals(made);
  Object.values(made).forEach((client) => client.close());
  console.log(`Node, by ${name}: all calls as they should be`);
}
await health();
console.log("Node, health: as it should be");
await web(byProto());
console.log("Node, gRPC-Web with fetch: as it should be");
process.exit(0);

#!/usr/bin/env python3
"""One measurement of a peer, in a process of its own, as one line of JSON.

  peer.py matmul KIND NxK M[,M...]   a linear layer: KIND is f32, bf16, int8 (PyTorch), ort-f32, ort-int8 (onnxruntime),
                                     ggml-tq2_0, ggml-tq1_0, ggml-q8_0 (the program that --ggml names)
  peer.py part KIND PART             vision, predictor or text at the sizes of vl-jepa-1.6b: KIND is f32, bf16, int8

Random weights, nothing is downloaded. int8 is dynamic: weights rounded before, activations at each call, in PyTorch by
`torch.ao.quantization.quantize_dynamic`, in onnxruntime by `quantize_dynamic`. Times are milliseconds of one call: with
one thread processor time, as our own benches count it, else time on the wall.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time

SAMPLE_SECONDS = 2e-3
GGML = ["ggml-tq2_0", "ggml-tq1_0", "ggml-q8_0"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["matmul", "part"])
    parser.add_argument("kind", choices=["f32", "bf16", "int8", "ort-f32", "ort-int8", *GGML])
    parser.add_argument("target", help="NxK of a matmul, or the part")
    parser.add_argument("rows", nargs="?", default="1024", help="rows of a matmul, comma between them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ggml", default="ggml_matmul", help="the program built from ggml_matmul.cpp")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--question-tokens", type=int, default=64)
    parser.add_argument("--text-tokens", type=int, default=256)
    return parser.parse_args()


def measure(call, repeats, threads):
    """Best and median milliseconds of a call; short calls are repeated within a sample."""
    clock = time.process_time if threads == 1 else time.perf_counter

    def sample(calls):
        start = clock()
        for _ in range(calls):
            call()
        return (clock() - start) / calls

    call()
    calls = max(1, int(SAMPLE_SECONDS / max(sample(1), 1e-7)) + 1) if repeats > 1 else 1
    times = [sample(calls) for _ in range(repeats)]
    return dict(best_ms=min(times) * 1e3, median_ms=statistics.median(times) * 1e3)


def torch_linear(kind, outputs, inputs):
    import torch

    layer = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False)).eval()
    if kind == "int8":
        layer = torch.ao.quantization.quantize_dynamic(layer, {torch.nn.Linear}, dtype=torch.qint8)
    elif kind == "bf16":
        layer = layer.to(torch.bfloat16)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32

    def prepared(rows):
        x = torch.randn(rows, inputs, dtype=dtype)
        return lambda: layer(x)

    return prepared, f"PyTorch {torch.__version__}"


def onnx_linear(kind, outputs, inputs, threads):
    import numpy
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    tensor = onnx.helper.make_tensor_value_info
    weights = numpy.random.default_rng(0).standard_normal((inputs, outputs)).astype(numpy.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [tensor("x", onnx.TensorProto.FLOAT, ["m", inputs])],
        [tensor("y", onnx.TensorProto.FLOAT, ["m", outputs])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "linear.onnx")
        onnx.save(model, path)
        if kind == "ort-int8":
            rounded = os.path.join(folder, "rounded.onnx")
            quantize_dynamic(path, rounded, weight_type=QuantType.QInt8, per_channel=True)
            path = rounded
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def prepared(rows):
        x = numpy.random.default_rng(1).standard_normal((rows, inputs)).astype(numpy.float32)
        return lambda: session.run(None, {"x": x})

    return prepared, f"onnxruntime {onnxruntime.__version__}"


def matmul(args):
    outputs, inputs = map(int, args.target.split("x"))
    if args.kind.startswith("ort"):
        prepared, version = onnx_linear(args.kind, outputs, inputs, args.threads)
    else:
        prepared, version = torch_linear(args.kind, outputs, inputs)
    rows = []
    for count in map(int, args.rows.split(",")):
        figures = measure(prepared(count), args.repeats, args.threads)
        gops = 2e-6 * count * outputs * inputs / figures["best_ms"]
        rows.append(dict(rows=count, gops=gops, **figures))
    return dict(version=version, rows=rows)


def vision(args, dtype):
    import torch
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(
        crop_size=256, frames_per_clip=64, tubelet_size=2, patch_size=16, hidden_size=1024, num_attention_heads=16,
        num_hidden_layers=24, mlp_ratio=4.0, attn_implementation="sdpa")
    encoder = VJEPA2Model(config).eval().encoder.to(dtype)
    pixels = torch.randn(1, args.frames, 3, 256, 256, dtype=dtype)
    return encoder, lambda model: model(pixels), args.frames // 2 * 256


def predictor(args, dtype):
    import torch
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=32, hidden_size=2048, intermediate_size=8192, num_hidden_layers=8, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, rms_norm_eps=1e-5, max_position_embeddings=131072,
        attn_implementation="sdpa")
    model = LlamaModel(config).eval().to(dtype)
    for layer in model.layers:
        layer.self_attn.is_causal = False
    tokens = args.frames // 2 * 256 + args.question_tokens
    x, positions = torch.randn(1, tokens, 2048, dtype=dtype), torch.arange(tokens)[None]

    def forward(model):
        angles, rows = model.rotary_emb(x, position_ids=positions), x
        for layer in model.layers:
            rows = layer(rows, attention_mask=None, position_embeddings=angles, position_ids=positions)
        return model.norm(rows).mean(1)

    return model, forward, tokens


def text(args, dtype):
    import torch
    from transformers import Gemma3TextConfig, Gemma3TextModel

    config = Gemma3TextConfig(
        vocab_size=262144, hidden_size=768, intermediate_size=1152, num_hidden_layers=24, num_attention_heads=3,
        num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=256, sliding_window=512,
        max_position_embeddings=2048, use_bidirectional_attention=True, attn_implementation="sdpa")
    model = Gemma3TextModel(config).eval().to(dtype)
    ids = torch.randint(4, 262000, (1, args.text_tokens))
    mask = torch.ones_like(ids)
    forward = lambda model: model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.mean(1)
    return model, forward, args.text_tokens


def part(args):
    import torch
    import transformers

    torch.manual_seed(0)
    dtype = torch.bfloat16 if args.kind == "bf16" else torch.float32
    model, forward, tokens = dict(vision=vision, predictor=predictor, text=text)[args.target](args, dtype)
    if args.kind == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    figures = measure(lambda: forward(model), args.repeats, args.threads)
    version = f"PyTorch {torch.__version__}, transformers {transformers.__version__}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return dict(version=version, tokens=tokens, peak_resident_bytes=peak, **figures)


def main():
    args = arguments()
    os.environ.update(OMP_NUM_THREADS=str(args.threads), MKL_NUM_THREADS=str(args.threads), TRANSFORMERS_VERBOSITY="error")
    if args.kind in GGML:
        words = [args.ggml, args.kind.removeprefix("ggml-"), args.target, args.rows, str(args.threads), str(args.repeats)]
        os.execvp(words[0], words)
    if args.kind.startswith("ort"):
        figures = matmul(args)
    else:
        import torch

        torch.set_num_threads(args.threads)
        with torch.inference_mode():
            figures = matmul(args) if args.what == "matmul" else part(args)
    print(json.dumps(dict(kind=args.kind, target=args.target, threads=args.threads, **figures)), flush=True)


if __name__ == "__main__":
    sys.exit(main())

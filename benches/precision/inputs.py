"""Inputs for `vljepa verify DIR FILE --precision ..`: pixels of real photographs and of clips, and a ViT-L of random weights.

    python -m venv v && v/bin/pip install numpy pillow safetensors scikit-image
    v/bin/python benches/precision/inputs.py OUT

writes OUT/photos64.safetensors and OUT/demo64.safetensors (8 frames of 64 pixels, for the bundled model),
OUT/photos256.safetensors (8 frames of 256 pixels) and OUT/vitl/ (V-JEPA 2's ViT-L as PyTorch would begin it; 1.2 GB).
The photographs are those that scikit-image carries; a clip of one pans over it, so that its frames differ.
"""

import json
import pathlib
import sys

import numpy as np
import skimage
from PIL import Image, ImageSequence
from safetensors.numpy import save_file

PHOTOS = ["astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg"]
FRAMES = 8
ROOT = pathlib.Path(__file__).resolve().parents[2]


def cropped(image, side, at=0.5):
    """The square at `at` (0 left or top, 1 right or bottom) of the image, its shortest edge resized to `side`."""
    scale = side / min(image.size)
    image = image.convert("RGB").resize([max(side, round(edge * scale)) for edge in image.size], Image.BILINEAR)
    left, top = [round((edge - side) * at) for edge in image.size]
    return np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255


def pan(image, side):
    return np.stack([cropped(image, side, frame / (FRAMES - 1)) for frame in range(FRAMES)])


def frames(path, side):
    all_frames = [cropped(frame, side) for frame in ImageSequence.Iterator(Image.open(path))]
    return np.stack([all_frames[index * len(all_frames) // FRAMES] for index in range(FRAMES)])


def pixels(clip, mean, std):
    """[1, frames, 3, side, side], normalised."""
    return np.ascontiguousarray(((clip - mean) / std).transpose(0, 3, 1, 2)[None], np.float32)


def vit_large(out, width=1024, layers=24, patch=(2, 16, 16)):
    rng = np.random.default_rng(0)
    normal = lambda *shape: (rng.standard_normal(shape, np.float32) * 0.02).clip(-0.04, 0.04)
    tensors = {"encoder.embeddings.patch_embeddings.proj.weight": normal(width, 3, *patch)}
    tensors["encoder.embeddings.patch_embeddings.proj.bias"] = np.zeros(width, np.float32)

    def norm(name):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(width, np.float32), np.zeros(width, np.float32)

    def linear(name, outputs, inputs):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = normal(outputs, inputs), np.zeros(outputs, np.float32)

    for layer in (f"encoder.layer.{index}" for index in range(layers)):
        norm(f"{layer}.norm1")
        for name in ["query", "key", "value", "proj"]:
            linear(f"{layer}.attention.{name}", width, width)
        norm(f"{layer}.norm2")
        linear(f"{layer}.mlp.fc1", 4 * width, width)
        linear(f"{layer}.mlp.fc2", width, 4 * width)
    norm("encoder.layernorm")
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps({"model_type": "vjepa2", "frames_per_clip": FRAMES}))


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    photos = {name.split(".")[0]: Image.open(pathlib.Path(skimage.__file__).parent / "data" / name) for name in PHOTOS}
    config = json.loads((ROOT / "fixtures/bundles/world-small/preprocessor_config.json").read_text())
    small = config["image_mean"], config["image_std"]
    large = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    key = "{}.pixel_values_videos".format
    save_file({key(name): pixels(pan(image, 64), *small) for name, image in photos.items()}, out / "photos64.safetensors")
    save_file({key(name): pixels(pan(photos[name], 256), *large) for name in ["astronaut", "chelsea"]}, out / "photos256.safetensors")
    files = [file for file in sorted((ROOT / "fixtures/demo").iterdir()) if file.suffix != ".md"]
    save_file({key(file.stem): pixels(frames(file, 64), *small) for file in files}, out / "demo64.safetensors")
    vit_large(out / "vitl")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

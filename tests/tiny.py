"""Tiny real checkpoints and a tiny dataset, made on the fly: the libraries' own classes, files and configuration keys.

`paper_vae`, `paper_clip` and `coco_dataset` have the file names and keys of madebyollin/taesdxl,
laion/CLIP-ViT-B-32-laion2B-s34B-b79K and romrawinjp/mscoco, at a small width; `mnist_folder` has those of ylecun/mnist.
"""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordLevelTrainer
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
)

CAPTIONS = (
    "a red house on a green hill under the sun",
    "two small boats on the sea at night",
    "a tall tree stands beside the road",
    "three birds fly over a snowy mountain",
    "a big castle in the desert",
    "one cow grazes in the field",
    "a lighthouse far away to the left",
    "flowers near a wooden bridge",
)
COCO_CAPTIONS = 5
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def tiny_vae(folder: Path | str, channels: int = 4, seed: int = 0) -> Path:
    """An `AutoencoderTiny` with 8 hidden channels and a downsampling of 8, random weights."""
    torch.manual_seed(seed)
    vae = AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    with torch.no_grad():
        vae.encoder.layers[-1].weight.mul_(4)  # latents that are not all near zero
    vae.save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def tiny_kl(folder: Path | str, channels: int = 4, shift_factor: float | None = 0.1, seed: int = 0) -> Path:
    """An `AutoencoderKL` with a downsampling of 8 and a scaling and shift factor of its own, random weights."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.5,
        shift_factor=shift_factor,
    )
    vae.save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def tiny_clip(folder: Path | str, image_size: int = 32, embed_dim: int = 16, seed: int = 0) -> Path:
    """A `CLIPModel` with processor and a word-level tokenizer whose end-of-text id is not 2 (the legacy rule)."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CAPTIONS, WordLevelTrainer(special_tokens=["<pad>", "<unk>", _START, _END]))
    start, end = tokenizer.token_to_id(_START), tokenizer.token_to_id(_END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(_START, start), (_END, end)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_START,
        eos_token=_END,
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=16,
    )
    model = CLIPModel(
        CLIPConfig(
            text_config=dict(
                vocab_size=tokenizer.get_vocab_size(),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=start,
                eos_token_id=end,
                pad_token_id=0,
            ),
            vision_config=dict(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=image_size,
                patch_size=8,
            ),
            projection_dim=embed_dim,
        )
    )
    images = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    model.save_pretrained(folder, safe_serialization=True)
    CLIPProcessor(image_processor=images, tokenizer=fast).save_pretrained(folder)
    return Path(folder)


def paper_vae(folder: Path | str, width: int = 8, seed: int = 0) -> Path:
    """The files and configuration keys of madebyollin/taesdxl; only the width differs."""
    folder = Path(folder)
    torch.manual_seed(seed)
    config = {
        "_class_name": "AutoencoderTiny",
        "_diffusers_version": "0.20.0.dev0",
        "act_fn": "relu",
        "decoder_block_out_channels": [width] * 4,
        "encoder_block_out_channels": [width] * 4,
        "force_upcast": False,
        "in_channels": 3,
        "latent_channels": 4,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "num_decoder_blocks": [3, 3, 3, 1],
        "num_encoder_blocks": [1, 3, 3, 3],
        "out_channels": 3,
        "scaling_factor": 1.0,
        "upsampling_scaling_factor": 2,
    }
    AutoencoderTiny.from_config(config).save_pretrained(folder, safe_serialization=True)
    _write_json(folder / "config.json", config)
    return folder


def paper_clip(folder: Path | str, embed_dim: int = 32, seed: int = 0) -> Path:
    """The files and configuration keys of laion/CLIP-ViT-B-32-laion2B-s34B-b79K; width, depth and vocabulary differ.

    Its `eos_token_id` is 2, the legacy value: the text tower then pools at the largest token id, which in CLIP's own
    vocabulary, as in this one, is the end of text.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = _byte_pair_tokenizer()
    vocabulary = tokenizer.get_vocab()
    text = {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "hidden_act": "gelu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": embed_dim,
        "vocab_size": len(vocabulary),
    }
    vision = {
        "hidden_act": "gelu",
        "hidden_size": 32,
        "image_size": 224,
        "intermediate_size": 64,
        "model_type": "clip_vision_model",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": 32,
        "projection_dim": embed_dim,
    }
    config = {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": embed_dim,
        "text_config": text,
        "text_config_dict": dict(text),
        "torch_dtype": "float32",
        "vision_config": vision,
        "vision_config_dict": dict(vision),
    }
    CLIPModel(CLIPConfig(**json.loads(json.dumps(config)))).save_pretrained(folder, safe_serialization=True)
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": 224,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": _CLIP_MEAN,
            "image_std": _CLIP_STD,
            "resample": 3,
            "size": 224,
        },
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    byte_pairs = json.loads(tokenizer.to_str())["model"]
    _write_json(folder / "vocab.json", byte_pairs["vocab"])
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in byte_pairs["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": 77,
            "tokenizer_class": "CLIPTokenizer",
        },
    )
    return folder


def coco_dataset(
    folder: Path | str, n_train: int = 12, n_val: int = 4, n_test: int = 4, size: int = 64, bad: bool = True
) -> Path:
    """A dataset in the schema of romrawinjp/mscoco, as parquet: image, en (list), filename, cocoid; train/val/test.

    With `bad`, the second picture of train is corrupt, the third has no caption, and the fourth is grey.
    """
    data = Path(folder) / "data"
    data.mkdir(parents=True, exist_ok=True)
    features = {
        "image": {"_type": "Image"},
        "en": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
        "filename": {"dtype": "string", "_type": "Value"},
        "cocoid": {"dtype": "int64", "_type": "Value"},
    }
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("en", pa.list_(pa.string())),
            ("filename", pa.string()),
            ("cocoid", pa.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for number, (split, n) in enumerate({"train": n_train, "val": n_val, "test": n_test}.items()):
        rows = []
        for i in range(n):
            name = f"COCO_{split}2014_{i:012d}.jpg"
            grey = bad and split == "train" and i == 3
            picture = jpeg(picture_array(1000 * number + i, size, size + 16), "L" if grey else "RGB")
            captions = [
                f"{CAPTIONS[(i + j) % len(CAPTIONS)]} {'very ' * j}".strip() for j in range(COCO_CAPTIONS + i % 2)
            ]
            if bad and split == "train" and i == 1:
                picture = picture[: len(picture) // 3]
            if bad and split == "train" and i == 2:
                captions = ["", "  "]
            rows.append(
                {
                    "image": {"bytes": picture, "path": name},
                    "en": captions,
                    "filename": name,
                    "cocoid": 1000 * number + i,
                }
            )
        table = pa.Table.from_pylist(rows, schema=schema)
        halves = [table.slice(0, (n + 1) // 2), table.slice((n + 1) // 2)] if split == "train" else [table]
        for part, half in enumerate(halves):
            path = data / f"{split}-{part:05d}-of-{len(halves):05d}.parquet"
            pq.write_table(half, path, row_group_size=3)
    return Path(folder)


def picture_array(seed: int, height: int = 64, width: int = 80) -> np.ndarray:
    """A smooth colourful picture (height, width, 3) of bytes, different for each seed."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def jpeg(array: np.ndarray, mode: str = "RGB") -> bytes:
    """The bytes of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _byte_pair_tokenizer() -> Tokenizer:
    """A small byte-pair vocabulary in CLIP's form: end-of-word marks, and the end of text has the largest id."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*alphabet, *(letter + "</w>" for letter in alphabet)])}
    merges = []
    for word in sorted({word for caption in CAPTIONS for word in caption.split()}):
        left = word[0] if len(word) > 1 else word + "</w>"
        for i in range(1, len(word)):
            right = word[i] + ("</w>" if i == len(word) - 1 else "")
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append((left, right))
            left += right
    vocabulary[_START], vocabulary[_END] = len(vocabulary), len(vocabulary) + 1
    backend = CLIPTokenizer(vocab=vocabulary, merges=merges).backend_tokenizer
    return Tokenizer.from_str(backend.to_str())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def mnist_folder(folder, labels, split_names=("train", "test"), label="label"):
    """A folder in the form of the hub's MNIST: parquet, pictures as PNG."""
    features = {"image": {"_type": "Image"}, label: {"dtype": "int64", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), (label, pa.int64())], metadata=metadata)
    (folder / "data").mkdir(parents=True)
    for split, values in zip(split_names, labels, strict=True):
        rows = []
        for value in values:
            buffer = io.BytesIO()
            Image.fromarray(np.full((28, 28), 25 * value, dtype=np.uint8)).save(buffer, "PNG")
            rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, label: value})
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder

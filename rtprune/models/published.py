"""The published families that this package reads, and by which names a config.json calls itself one; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from rtprune.models.card import Family

_DRAFTING_LAYER = "model.language_model.layers.16"
_DRAFTING_PARTS = (
    *("embed_tokens", "enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head"),
    *(f"self_attn.{projection}_proj" for projection in "qkvo"),
    *("mlp.gate_up_proj", "mlp.down_proj"),
    *("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
)

DEEPSEEK_OCR = Family(
    title="DeepSeek-OCR",
    published="deepseek-ai/DeepSeek-OCR",
    licence="MIT",
    modes=("tiny", "small", "base", "large", "gundam"),
    default_mode="large",
    prompts={
        "markdown": "<image>\n<|grounding|>Convert the document to markdown.",
        "text": "<image>\nFree OCR.",
    },
    # CLIP is fed with SAM's map instead of patches
    unused_tensors=frozenset({"model.vision_model.embeddings.patch_embedding.weight"}),
)

DEEPSEEK_OCR2 = Family(
    title="DeepSeek-OCR-2",
    published="deepseek-ai/DeepSeek-OCR-2",
    licence="Apache-2.0",
    modes=("base", "gundam"),
    default_mode="gundam",
    prompts={
        "markdown": "<image>\n<|grounding|>Convert the document to markdown.",
        "text": "<image>\nFree OCR.",
    },
)

UNLIMITED_OCR = Family(
    title="Unlimited-OCR",
    published="baidu/Unlimited-OCR",
    licence="MIT",
    modes=("base", "gundam"),
    default_mode="gundam",
    prompts={"markdown": "<image>document parsing."},
    # CLIP is fed with SAM's map instead of patches
    unused_tensors=frozenset({"model.vision_model.embeddings.patch_embedding.weight"}),
)

LIGHTON_OCR = Family(
    title="LightOnOCR",
    published="lightonai/LightOnOCR-2-1B",
    licence="Apache-2.0",
    modes=("native",),
    default_mode="native",
    prompts={
        # the published template leaves the system turn empty, even of its newline
        "markdown": "<|im_start|>system<|im_end|>\n<|im_start|>user\n<image><|im_end|>\n<|im_start|>assistant\n",
    },
    # some files hold the embeddings once more as the head
    unused_tensors=frozenset({"lm_head.weight"}),
    # config.json names one of them or none; the published generation_config.json both
    end_marks=("<|im_end|>", "<|endoftext|>"),
)

GLM_OCR = Family(
    title="GLM-OCR",
    published="zai-org/GLM-OCR",
    licence="MIT",
    modes=("native",),
    default_mode="native",
    prompts={
        # its other two prompts are for formulas and tables cut out of a page
        "text": "[gMASK]<sop><|user|>\n<|begin_of_image|><image><|end_of_image|>Text Recognition:<|assistant|>\n",
    },
    # a layer behind the last, for guessing a second token ahead
    unused_tensors=frozenset(f"{_DRAFTING_LAYER}.{part}.weight" for part in _DRAFTING_PARTS),
)


@dataclass(frozen=True)
class Known:
    """A family of this package.

    Attributes:
        family: what is known of it.
        home: module and class that reads it; importing it takes seconds, as it needs transformers.
        names: what a config.json of it has among its ``architectures`` or as ``model_type``.
    """

    family: Family
    home: str
    names: tuple[str, ...]


KNOWN = (
    Known(DEEPSEEK_OCR, "rtprune.models.deepseek_ocr:DeepSeekOcr", ("DeepseekOCRForCausalLM", "deepseek_vl_v2")),
    Known(
        DEEPSEEK_OCR2,
        "rtprune.models.deepseek_ocr2:DeepSeekOcr2",
        ("DeepseekOCR2ForCausalLM", "DeepseekOcr2ForConditionalGeneration", "deepseek_ocr2"),
    ),
    Known(
        UNLIMITED_OCR,
        "rtprune.models.unlimited_ocr:UnlimitedOcr",
        ("UnlimitedOCRForCausalLM", "UnlimitedOcrForConditionalGeneration", "unlimited-ocr", "unlimited_ocr"),
    ),
    Known(
        LIGHTON_OCR,
        "rtprune.models.lighton_ocr:LightOnOcr",
        ("LightOnOCRForConditionalGeneration", "LightOnOcrForConditionalGeneration", "lighton_ocr"),
    ),
    Known(GLM_OCR, "rtprune.models.glm_ocr:GlmOcr", ("GlmOcrForConditionalGeneration", "glm_ocr")),
)

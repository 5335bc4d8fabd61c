"""The authors' fine-tuning recipes, per task and architecture, at size base.

UNITER sums the gradients of its `accum` micro-batches and averages over GPUs; here a step takes the
mean over all of them. So `accumulate` is accum x GPUs, and the gradient norm and the values that
depend on it (clipping, Adam's eps) are the published ones over accum. The micro-batches are those
of UNITER's `TokenBucketSampler` (`token_batches: uniter`), in pre-training too. With
`token_batches: full` they have about twice as many examples.

Which evaluation gives the score:

    UNITER    the last one. The scripts save a checkpoint every `valid_steps` and choose none; the
              README scores VQA at the last step, 6,000. For NLVR2 it names step 6,500 of 8,000 of a
              published model, without a rule. RefCOCO+ keeps the best epoch (`train_re.py`).
    LXMERT    the best epoch (`src/tasks/{vqa,gqa,nlvr2}.py`: BEST.pth).
    ViLT      the best epoch, on VQA the best tenth of an epoch (`run.py`: ModelCheckpoint of
              val/the_metric; `val_check_interval` in `vilt/config.py`). ViLT's code chooses by VQA
              on the held-out questions, by NLVR2's test1 and by IR@1 + TR@1 of retrieval's test
              split; here all choose by the held-out split that gives the score.

The best evaluation gives the score only: tickets are pruned from the weights of the last step.

VILLA (Gan et al. 2020) and its code for LXMERT train with the same recipes and an unbounded
adversary of 3 steps with `adversary_kl` 1.5:

    UNITER vqa, nlvr2, snli_ve      adversary text, adversary_lr 1e-3
    UNITER vcr                      adversary both, adversary_lr 1e-2, adversary_kl 0.75: published
                                    as 1.5 of the mean over right and wrong, half of our sum
    LXMERT vqa, nlvr2               adversary text, adversary_lr 1e-3
    LXMERT gqa                      adversary text, adversary_lr 1e-2
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from trainables.spec import Recipe


def uniter(
    *, steps: int, lr: float, tokens: int, accum: int, gpus: int, head_lr_scale: float = 1.0
) -> Recipe:
    """Convert a published configuration of UNITER: AdamW, warm-up over a tenth, clipping at 2."""
    return Recipe(
        steps=steps,
        tokens=tokens,
        token_batches="uniter" if tokens else "full",
        batch_size=accum * gpus,  # must only be divisible: `tokens` sizes the micro-batches
        accumulate=accum * gpus,
        lr=lr,
        head_lr_scale=head_lr_scale,
        eps=1e-6 / accum,
        clip_norm=2.0 / accum,
    )


def lxmert(*, steps: int, lr: float) -> Recipe:
    """Convert a published configuration of LXMERT: 4 epochs of BertAdam, which has no bias
    correction and decays every parameter. Region features are float32, as `src/utils.py` reads
    them."""
    return Recipe(
        steps=steps,
        batch_size=32,
        lr=lr,
        beta2=0.999,
        eps=1e-6,
        bias_correction=False,
        decay_vectors=True,
        clip_norm=5.0,
        eval_every=math.ceil(steps / 4),
        score="best",
        region_features="float32",
    )


def vilt(
    *, steps: int, batch_size: int, evaluations: int = 10, head_lr_scale: float = 1.0
) -> Recipe:
    """Convert a published configuration of ViLT: 10 epochs, with an evaluation after each."""
    return Recipe(
        steps=steps,
        batch_size=batch_size,
        lr=1e-4,
        head_lr_scale=head_lr_scale,
        clip_norm=0.0,
        eval_every=math.ceil(steps / evaluations),
        score="best",
    )


_UNITER_VQA = uniter(steps=6000, lr=8e-5, tokens=5120, accum=5, gpus=4, head_lr_scale=10.0)

VQA: Mapping[str, Recipe] = {
    "uniter": _UNITER_VQA,
    # 4 epochs of train and nominival, 632,117 questions, in batches of 32, the last one dropped.
    "lxmert": lxmert(steps=79_012, lr=5e-5),
    # 10 epochs in batches of 256 of train and trainable_val: 658,111 questions minus those of the
    # last thousand images of val and those without an answer in the vocabulary, about 640,000.
    "vilt": vilt(steps=25_000, batch_size=256, evaluations=100, head_lr_scale=10.0),
}
GQA: Mapping[str, Recipe] = {
    # No recipe was published; this is the one of VQA.
    "uniter": _UNITER_VQA,
    # 4 epochs of balanced train and valid, 1,075,062 questions, in batches of 32.
    "lxmert": lxmert(steps=134_380, lr=1e-5),
}
SNLI_VE: Mapping[str, Recipe] = {
    "uniter": uniter(steps=4000, lr=8e-5, tokens=4096, accum=4, gpus=2),
    # No recipe was published: METER's 5 epochs of 529,527 sentences and its choice of the best,
    # with ViLT's learning rate, batch size and head of VQA.
    "vilt": vilt(steps=10_342, batch_size=256, evaluations=5, head_lr_scale=10.0),
}
NLVR2: Mapping[str, Recipe] = {
    "uniter": uniter(steps=8000, lr=3e-5, tokens=10240, accum=1, gpus=1),
    # 4 epochs of 86,373 sentences in batches of 32.
    "lxmert": lxmert(steps=10_796, lr=5e-5),
    # 10 epochs in batches of 128.
    "vilt": vilt(steps=6_748, batch_size=128),
}
VCR: Mapping[str, Recipe] = {
    "uniter": uniter(steps=8000, lr=6e-5, tokens=4000, accum=5, gpus=4),
}
REFCOCO: Mapping[str, Recipe] = {
    # The published loss is summed over 128 expressions, so its gradient norm is 128 times larger.
    # The model is scored after each epoch of 120,191 expressions, and the best score counts. The
    # authors' seed is 24.
    "uniter": replace(
        uniter(steps=10_000, lr=6e-5, tokens=0, accum=1, gpus=1),
        batch_size=128,
        eps=1e-6 / 128,
        clip_norm=2.0 / 128,
        eval_every=939,
        score="best",
    ),
}
RETRIEVAL: Mapping[str, Recipe] = {
    # Without hard negatives: 40 captions x 4 micro-batches x 8 GPUs.
    "uniter": replace(uniter(steps=20_000, lr=5e-5, tokens=0, accum=4, gpus=8), batch_size=1280),
    # 10 epochs of the 145,000 captions of train, 4 images with 16 texts each at a time.
    "vilt": replace(vilt(steps=5_664, batch_size=256), accumulate=64),
}
PRETRAINING: Mapping[str, Recipe] = {
    # A round of VLT: 10 % of the 200,000 steps of `pretrain-alldata-base-8gpu.json`. The schedule
    # within a round was not published: here 5 % warm-up and linear decay to 0, as in the full run.
    "uniter": replace(
        uniter(steps=20_000, lr=5e-5, tokens=10_240, accum=6, gpus=8),
        warmup=0.05,
        clip_norm=5.0 / 6,
    ),
}

"""The DALL-E prior against its definitions: one causal sequence, its losses, its draws, and what it learns."""

import itertools

import numpy as np
import pytest
import torch
from interruption import interrupted_at
from scipy import stats
from tiny import tiny_clip

from sketchae.backbone_training.loop import LoopConfig
from sketchae.backbone_training.pool import ImagePool
from sketchae.backbones import load_clip
from sketchae.backbones.identity import backbone_id
from sketchae.errors import BadInputError
from sketchae.latent_models import prior as module
from sketchae.latent_models.dvae import DiscreteVAE
from sketchae.latent_models.prior import (
    TEXT_SHARE,
    TokenPrior,
    check_codec,
    encode_tokens,
    paint_prompts,
    rerank,
    tokenize,
    train_prior,
)

N_TEXT, MAX_TEXT = 7, 6
SIZES = dict(width=16, n_layers=2, n_heads=2)
CAPTIONS = [[2, 4, 5, 1, 3], [2, 6, 3], [2, 5, 5, 3]]
EMPTY = torch.tensor([[2, 3]])


def tiny(seed=0, **options):
    """A prior with weights so large that everything depends on everything."""
    torch.manual_seed(seed)
    model = TokenPrior(N_TEXT, **dict(codebook_size=5, grid=2, max_text=MAX_TEXT) | SIZES | options).eval()
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.mul_(8) if parameter.ndim == 2 else None
        model.image_head.weight.mul_(2)
    return model


def batch(captions=CAPTIONS, n_columns=None):
    """Captions padded with zeros, and their mask."""
    n = n_columns or max(map(len, captions))
    text = torch.tensor([c + [0] * (n - len(c)) for c in captions])
    return text, torch.tensor([[1] * len(c) + [0] * (n - len(c)) for c in captions])


def some_tokens(n=3, codes=5, places=4, seed=0):
    return torch.randint(codes, (n, places), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def by_hand(model, caption, tokens):
    """Logits of the caption's next words and of all image tokens that may follow: one example, no padding, no mask, no cache."""
    ids = torch.tensor([[*caption, model.n_text + model.n_codes, *(int(t) + model.n_text for t in tokens)]])
    places = torch.tensor([[*range(len(caption)), *range(model.max_text, model.max_text + 1 + len(tokens))]])
    found = model.transformer(input_ids=ids, position_ids=places, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state[0]
    return model.text_head(found[: len(caption) - 1]), model.image_head(found[len(caption) :])


@torch.no_grad()
def batched_logits(model, text, mask, tokens):
    """Logits of all image tokens as training computes them."""
    return model.image_head(model._states(*model._sequence(text, mask, tokens[:, :-1])).last_hidden_state[:, text.shape[1] :])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(tiny_clip(tmp_path_factory.mktemp("clip")), device="cpu")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return ImagePool(tmp_path_factory.mktemp("pool"), "judge_a", 6)


def tiny_codec(seed=0):
    torch.manual_seed(seed)
    return DiscreteVAE(codebook_size=12, code_dim=3, widths=(4, 8), n_blocks=(0, 1), patch=8).eval()


# --- The sequence -----------------------------------------------------------------------------------------------------


def test_losses_are_cross_entropies_by_hand():
    model, tokens = tiny(), some_tokens()
    with torch.no_grad():
        words, image = model.losses(*batch(), tokens)
    of_words, of_image = [], []
    for caption, row in zip(CAPTIONS, tokens, strict=True):
        next_words, next_tokens = by_hand(model, caption, row[:-1])
        of_words += [-next_words.log_softmax(1)[i, word] for i, word in enumerate(caption[1:])]
        of_image += [-next_tokens.log_softmax(1)[i, token] for i, token in enumerate(row)]
    assert len(of_words) == 4 + 2 + 3 and len(of_image) == 12
    assert float(words) == pytest.approx(float(torch.stack(of_words).mean()), abs=1e-4)
    assert float(image) == pytest.approx(float(torch.stack(of_image).mean()), abs=1e-4)
    assert float(image) != pytest.approx(np.log(5), abs=0.02)  # the model is not indifferent


def test_a_token_has_an_influence_on_what_follows_only():
    model, (text, mask), tokens = tiny(), batch(), some_tokens()
    before = batched_logits(model, text, mask, tokens)
    for place in range(4):
        other = tokens.clone()
        other[:, place] = (other[:, place] + 1) % 5
        change = (batched_logits(model, text, mask, other) - before).abs().amax((0, 2))
        assert change[: place + 1].max() < 1e-5
        assert (change[place + 1 :] > 1e-3).all()


def test_every_word_of_the_caption_has_an_influence_on_every_token():
    model, (text, mask), tokens = tiny(), batch(), some_tokens()
    before = batched_logits(model, text, mask, tokens)
    for row, caption in enumerate(CAPTIONS):
        for place in range(len(caption)):
            other = text.clone()
            other[row, place] = (other[row, place] + 1) % N_TEXT
            change = (batched_logits(model, other, mask, tokens) - before).abs().amax(2)
            assert (change[row] > 1e-4).all() and np.delete(change.numpy(), row, 0).max() < 1e-5  # and on those of its picture alone


def test_padding_has_no_influence():
    model, tokens = tiny(), some_tokens()
    text, mask = batch()
    whole = batched_logits(model, text, mask, tokens)
    wide, wide_mask = batch(n_columns=MAX_TEXT)
    assert torch.allclose(batched_logits(model, wide, wide_mask, tokens), whole, atol=1e-4)
    assert torch.allclose(batched_logits(model, torch.where(mask.bool(), text, 6), mask, tokens), whole, atol=1e-4)  # whatever pads
    for row, caption in enumerate(CAPTIONS):
        alone = batch([caption])
        assert torch.allclose(batched_logits(model, *alone, tokens[row : row + 1])[0], whole[row], atol=1e-4)
        pair = model.losses(*batch([caption], n_columns=MAX_TEXT), tokens[row : row + 1])
        assert torch.allclose(torch.stack(pair), torch.stack(model.losses(*alone, tokens[row : row + 1])), atol=1e-4)


def test_losses_have_the_gradient_of_finite_differences():
    model, (text, mask), tokens = tiny().double(), batch(), some_tokens()
    weight = model.transformer.wte.weight
    sum(model.losses(text, mask, tokens)).backward()
    step = 1e-6
    for row in (4, N_TEXT + int(tokens[0, 1]), N_TEXT + 5):  # a word, an image token, <image>
        values = []
        with torch.no_grad():
            for sign in (1, -2):
                weight[row, 3] += sign * step
                values.append(float(sum(model.losses(text, mask, tokens))))
            weight[row, 3] += step
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(weight.grad[row, 3]), rel=1e-4, abs=1e-8) != 0


def test_captions_that_are_too_long():
    text = torch.ones(1, MAX_TEXT + 1, dtype=torch.long)
    with pytest.raises(BadInputError, match="Captions of 7 tokens do not fit into 6"):
        tiny().losses(text, text, some_tokens(1))
    with pytest.raises(BadInputError, match="do not fit"):
        tiny().draw(text, text, [0])


def test_saving_and_loading(tmp_path):
    model = tiny(codec_id="abc")
    model.save_pretrained(tmp_path)
    again = TokenPrior.from_pretrained(tmp_path)
    assert again.config["codec_id"] == "abc" and (again.n_text, again.n_codes, again.n_tokens, again.max_text) == (N_TEXT, 5, 4, MAX_TEXT)
    assert torch.equal(torch.stack(again.losses(*batch(), some_tokens())), torch.stack(model.losses(*batch(), some_tokens())))
    assert torch.equal(again.draw(*batch(), [1, 2, 3]), model.draw(*batch(), [1, 2, 3]))


# --- Draws ------------------------------------------------------------------------------------------------------------


def greedy(model, caption, guidance=1.0):
    tokens = []
    for _ in range(model.n_tokens):
        logits = by_hand(model, caption, tokens)[1][-1]
        if guidance != 1:
            without = by_hand(model, EMPTY[0].tolist(), tokens)[1][-1]
            logits = without + guidance * (logits - without)
        tokens.append(int(logits.argmax()))
    return tokens


@pytest.mark.parametrize("guidance", [1, 0, 3.0])
def test_without_temperature_the_most_likely_tokens_are_taken_one_by_one(guidance):
    model = tiny(seed=2, grid=3)
    drawn = model.draw(*batch(), [0, 0, 0], temperature=0, guidance=guidance, empty=EMPTY)
    assert drawn.shape == (3, 3, 3)
    assert drawn.flatten(1).tolist() == [greedy(model, caption, guidance) for caption in CAPTIONS]
    assert (len(drawn.flatten(1).unique(dim=0)) == 1) == (guidance == 0)  # where captions are not heard


def test_pictures_are_drawn_with_the_probabilities_of_the_sequence():
    """All 81 pictures of 2x2 places and 3 codes, against the product of their conditional probabilities."""
    model, n = tiny(seed=1, codebook_size=3), 5000
    caption, empty = CAPTIONS[0], EMPTY[0].tolist()
    pictures = list(itertools.product(range(3), repeat=4))
    with_caption = torch.stack([by_hand(model, caption, p[:-1])[1] for p in pictures])
    without = torch.stack([by_hand(model, empty, p[:-1])[1] for p in pictures])
    cut = with_caption.masked_fill(with_caption < with_caption.topk(2).values[..., 1:], -torch.inf)
    cases = [
        (dict(), with_caption),
        (dict(temperature=0.5), with_caption / 0.5),
        (dict(top_k=2), cut),
        (dict(guidance=2.5, empty=EMPTY), without + 2.5 * (with_caption - without)),
    ]
    shares = [_shares_of(logits, pictures) for _, logits in cases]
    text, mask = (x.expand(n, -1) for x in batch([caption]))
    for i, (options, _) in enumerate(cases):
        drawn = model.draw(text, mask, list(range(n)), **options).flatten(1).numpy()
        counts = np.bincount(drawn @ 3 ** np.arange(4)[::-1], minlength=81)
        assert counts[shares[i] == 0].sum() == 0
        assert _chi2(counts, shares[i]) > 0.001
        assert _chi2(counts, shares[i - 1]) < 1e-6  # and not with those of another case


def _shares_of(logits, pictures):
    chosen = logits.log_softmax(-1).gather(-1, torch.tensor(pictures)[..., None])[..., 0]
    shares = chosen.sum(1).double().exp().numpy()
    assert shares.sum() == pytest.approx(1, abs=1e-4)
    return shares / shares.sum()


def _chi2(counts, shares):
    """p of a χ² test, pictures of which fewer than eight are expected taken as one."""
    expected = counts.sum() * shares
    rare = expected < 8
    observed, expected = [np.append(x[~rare], x[rare].sum()) for x in (counts, expected)]
    if expected[-1] < 8:  # all rare ones together are rare as well
        observed, expected = observed[:-1], expected[:-1]
    return stats.chisquare(observed, expected * (observed.sum() / expected.sum())).pvalue


def test_a_picture_depends_on_its_own_seed_and_caption_only():
    model = tiny(grid=3)
    together = model.draw(*batch(), [11, 12, 13])
    assert torch.equal(together, model.draw(*batch(), [11, 12, 13]))
    for row, seed in enumerate((11, 12, 13)):
        assert torch.equal(model.draw(*batch([CAPTIONS[row]]), [seed])[0], together[row])
    reversed_ = model.draw(*batch(CAPTIONS[::-1]), [13, 12, 11])
    assert torch.equal(reversed_.flip(0), together)
    guided = dict(guidance=2, empty=EMPTY)
    assert torch.equal(model.draw(*batch([CAPTIONS[1]]), [12], **guided)[0], model.draw(*batch(), [11, 12, 13], **guided)[1])
    same = model.draw(*(x.expand(50, -1) for x in batch([CAPTIONS[0]])), list(range(50)))
    assert len(same.flatten(1).unique(dim=0)) > 30  # other seeds, other pictures


def test_the_noise_of_a_seed_serves_every_caption():
    """With logits that do not depend on the caption, equal seeds give equal pictures."""
    model = tiny()
    with torch.no_grad():
        model.image_head.weight.zero_()
    drawn = model.draw(*batch(), [5, 5, 6])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_top_1_is_no_temperature_and_all_tokens_are_no_cut():
    model, seeds = tiny(grid=3), [1, 2, 3]
    best = model.draw(*batch(), seeds, temperature=0)
    assert torch.equal(model.draw(*batch(), seeds, top_k=1), best)
    assert torch.equal(model.draw(*batch(), seeds, temperature=1e-6), best)
    free = model.draw(*batch(), seeds)
    assert torch.equal(model.draw(*batch(), seeds, top_k=5), free) and not torch.equal(free, best)


def test_guidance_of_one_or_towards_the_empty_caption_changes_nothing():
    model, seeds = tiny(grid=3), [1, 2, 3]
    free = model.draw(*batch(), seeds)
    assert torch.equal(model.draw(*batch(), seeds, guidance=1, empty=EMPTY), free)
    assert not torch.equal(model.draw(*batch(), seeds, guidance=4, empty=EMPTY), free)
    blank = batch([EMPTY[0].tolist()] * 3)
    assert torch.equal(model.draw(*blank, seeds, guidance=4, empty=EMPTY), model.draw(*blank, seeds))
    single = batch([[4], [5], [6]])  # captions that are shorter than the empty one
    assert torch.equal(
        model.draw(*single, seeds, guidance=4, empty=EMPTY), model.draw(*batch([[4], [5], [6]], n_columns=3), seeds, guidance=4, empty=EMPTY)
    )


@pytest.mark.parametrize(
    "seeds, options, message",
    [
        ([1, 2], {}, "3 captions and 2 seeds"),
        ([1, 2, 3], dict(temperature=-0.1), "temperature -0.1"),
        ([1, 2, 3], dict(top_k=0), "top_k 0"),
        ([1, 2, 3], dict(top_k=6), "between 1 and 5"),
        ([1, 2, 3], dict(guidance=2), "give `empty`"),
    ],
)
def test_draws_that_cannot_be(seeds, options, message):
    with pytest.raises(BadInputError, match=message):
        tiny().draw(*batch(), seeds, **options)


# --- Words and pictures -----------------------------------------------------------------------------------------------


def test_captions_are_tokens_of_clip_padded_to_the_longest(clip):
    text, mask = tokenize(clip, ["a red house", "the sea at night", ""])
    assert text.shape == mask.shape == (3, 6) and mask.sum(1).tolist() == [5, 6, 2]
    assert (text[~mask.bool()] == clip.tokenizer.pad_token_id).all()
    decoded = clip.tokenizer.decode(text[0], skip_special_tokens=True)
    assert decoded == "a red house" and torch.equal(text[2, :2], text[0, [0, 4]])  # begins and ends
    assert tokenize(clip, ["a red house on a green hill under the sun"], max_text=5)[0].shape == (1, 5)
    unpadded = tokenize(clip, ["a red house"])[0]
    assert torch.equal(unpadded[0], text[0, :5])


def prior_of(codec, clip, **options):
    torch.manual_seed(0)
    return TokenPrior(len(clip.tokenizer), codebook_size=12, grid=8, max_text=16, codec_id=backbone_id(codec), **SIZES | options).eval()


def test_pictures_for_prompts_are_decoded_draws(clip):
    codec = tiny_codec()
    model, prompts = prior_of(codec, clip), ["a red house", "", "two small boats on the sea at night"]
    images = paint_prompts(model, codec, clip, prompts, [1, 2, 3], progress=False)
    assert images.shape == (3, 3, 128, 128) and images.min() >= 0 and images.max() <= 1
    with torch.no_grad():
        assert torch.equal(images, codec.decode(model.draw(*tokenize(clip, prompts), [1, 2, 3])))
    small = paint_prompts(model, codec, clip, prompts, [1, 2, 3], batch_size=2, progress=False)
    assert torch.allclose(small, images, atol=1e-5)
    guided = paint_prompts(model, codec, clip, prompts, [1, 2, 3], guidance=5, progress=False)
    assert torch.allclose(guided[1], images[1], atol=1e-5)  # the empty caption is what guidance starts from
    with pytest.raises(BadInputError, match="one seed for each"):
        paint_prompts(model, codec, clip, prompts, [1, 2], progress=False)


def test_an_autoencoder_is_known_by_its_weights(tmp_path, clip):
    codec, other = tiny_codec(), tiny_codec(seed=1)
    assert backbone_id(codec) == backbone_id(tiny_codec()) != backbone_id(other) and backbone_id(codec).startswith("DiscreteVAE-")
    codec.save_pretrained(tmp_path)
    assert backbone_id(DiscreteVAE.from_pretrained(tmp_path)) == backbone_id(codec)
    with torch.no_grad():
        changed = tiny_codec()
        changed.codebook[3, 1] += 1e-3
    assert backbone_id(changed) != backbone_id(codec)
    model = prior_of(codec, clip)
    check_codec(model, codec)
    check_codec(tiny(), other)  # one that was not told
    with pytest.raises(BadInputError, match="load the one that it was trained with"):
        check_codec(model, other)
    with pytest.raises(BadInputError, match=backbone_id(codec)):
        paint_prompts(model, other, clip, ["a tree"], [0], progress=False)


def test_reranking_takes_the_best_first():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, -1.0, 3.0, 2.0]])
    assert rerank(scores, 2).tolist() == [[1, 3], [0, 2]]
    assert rerank(scores, 1).flatten().tolist() == scores.argmax(1).tolist()
    assert torch.equal(rerank(scores, 4), scores.argsort(1, descending=True))
    for n in (0, 5):
        with pytest.raises(BadInputError, match="of 4 candidates"):
            rerank(scores, n)


def test_tokens_of_a_pool_are_the_codes_of_its_pictures_and_kept(tmp_path, pool, monkeypatch):
    codec = tiny_codec()
    tokens = encode_tokens(codec, pool, 5)
    assert tokens.shape == (5, 64) and np.array_equal(tokens, codec.encode(pool.images(np.arange(5))).flatten(1))
    assert not list(tmp_path.iterdir())
    for n in (0, len(pool) + 1):
        with pytest.raises(BadInputError, match=f"Codes of {n} pictures, and the pool holds {len(pool)}"):
            encode_tokens(codec, pool, n)
    assert np.array_equal(encode_tokens(codec, pool, 5, tmp_path / "kept"), tokens)
    (file,) = (tmp_path / "kept").iterdir()
    assert backbone_id(codec) in file.name
    assert not np.array_equal(encode_tokens(tiny_codec(seed=1), pool, 5, tmp_path / "kept"), tokens)
    assert encode_tokens(codec, pool, 3, tmp_path / "kept").shape == (3, 64)
    assert len(list((tmp_path / "kept").iterdir())) == 3  # other codec, other number, other file
    monkeypatch.setattr(DiscreteVAE, "encode", None)  # from here on only what was kept can answer
    assert np.array_equal(encode_tokens(codec, pool, 5, tmp_path / "kept"), tokens)


def test_pools_that_vary_other_factors_are_kept_apart(tmp_path):
    codec = tiny_codec()
    for vary in (None, "celestial", "light"):
        varied = ImagePool(tmp_path / "pool", "backbones", 4, vary=vary)
        expected = codec.encode(varied.images(np.arange(4))).flatten(1)
        assert np.array_equal(encode_tokens(codec, varied, 4, tmp_path / "kept"), expected)


# --- Training ---------------------------------------------------------------------------------------------------------

WORDS = ("red", "green")  # red: all tokens 0; green: all tokens 1


def train(clip, out, n_steps=6, n=16, **options):
    tokens = np.repeat(np.arange(n)[:, None] % 2, 4, 1).astype(np.int32)
    prompts = [[f"a {WORDS[i % 2]} house", WORDS[i % 2]] for i in range(n)]
    config = LoopConfig(n_steps=n_steps, lr=1e-2, n_warmup=2, ema_decay=0.5, checkpoint_every=2)
    return train_prior(tokens, prompts, clip, out, config, **dict(batch_size=8, codebook_size=3) | SIZES | options)


def test_it_learns_to_obey_the_caption(tmp_path, clip):
    model, record = train(clip, tmp_path, n_steps=80, drop_prompt=0.3)
    assert not model.training and model.max_text == clip.max_tokens and model.n_tokens == 4
    assert record["log"][0]["image"] == pytest.approx(np.log(3), abs=0.15)
    for options in (dict(temperature=0), dict(), dict(guidance=2, empty=tokenize(clip, [""])[0])):
        prompts = [word for word in WORDS for _ in range(20)]
        drawn = model.draw(*tokenize(clip, prompts), list(range(40)), **options).flatten(1)
        assert (drawn[:20] == 0).float().mean() > 0.95 and (drawn[20:] == 1).float().mean() > 0.95
    free = model.draw(*tokenize(clip, [""] * 200), list(range(200))).flatten(1)
    assert (free == free[:, :1]).all(1).float().mean() > 0.9  # without a caption a picture of one kind,
    assert 0.25 < free[:, 0].float().mean() < 0.75  # of both kinds


def test_the_loss_is_an_eighth_words_and_captions_are_drawn_and_dropped(tmp_path, clip, monkeypatch):
    seen, real = [], module.tokenize

    def watched(clip, prompts, *args):
        seen.append(list(prompts))
        return real(clip, prompts, *args)

    monkeypatch.setattr(module, "tokenize", watched)
    pictures, losses = [], TokenPrior.losses
    monkeypatch.setattr(TokenPrior, "losses", lambda self, text, mask, tokens: (pictures.append(tokens[:, 0]), losses(self, text, mask, tokens))[1])
    _, record = train(clip, tmp_path, n_steps=40, drop_prompt=0.25)
    for row in record["log"]:
        assert row["loss"] == pytest.approx(row["words"] / 8 + row["image"] * 7 / 8, abs=3e-5) and TEXT_SHARE == 1 / 8
    prompts, tokens = [prompt for batch in seen for prompt in batch], torch.cat(pictures).tolist()
    assert len(prompts) == len(tokens) == 320
    assert abs(prompts.count("") / 320 - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 320)
    assert all(WORDS[token] in prompt.split() for prompt, token in zip(prompts, tokens, strict=True) if prompt)
    long = sum(prompt.startswith("a ") for prompt in prompts) / (320 - prompts.count(""))
    assert abs(long - 0.5) < 3 * 0.5 / np.sqrt(240)  # either prompt as often


def test_an_interrupted_training_resumes_to_the_same_prior(tmp_path, clip):
    whole, expected = train(clip, tmp_path / "whole")
    with interrupted_at(4, TokenPrior, "losses"):
        train(clip, tmp_path / "parts")
    assert [p.name for p in (tmp_path / "parts").glob("step-*")] == ["step-0000002.safetensors"]
    resumed, record = train(clip, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))
    assert record["log"] == expected["log"]


def test_a_prior_remembers_whose_tokens_it_learnt(tmp_path, clip):
    codec = tiny_codec()
    tokens = np.zeros((8, 64), dtype=np.int32)
    config = LoopConfig(n_steps=1, lr=1e-3, n_warmup=1)
    model, _ = train_prior(tokens, [["a"]] * 8, clip, tmp_path / "run", config, codec=codec, batch_size=4, **SIZES)
    assert model.n_codes == 12 and model.n_tokens == 64 and model.n_text == len(clip.tokenizer)
    model.save_pretrained(tmp_path / "saved")
    again = TokenPrior.from_pretrained(tmp_path / "saved")
    check_codec(again, codec)
    with pytest.raises(BadInputError, match="not of"):
        check_codec(again, tiny_codec(seed=1))


def test_trainings_that_cannot_be(tmp_path, clip):
    config, tokens = LoopConfig(n_steps=1, lr=1e-3), np.zeros((4, 4), dtype=np.int32)
    for prompts, batch_size in (([["a"]] * 3, 2), ([["a"]] * 4, 5)):
        with pytest.raises(BadInputError, match="a batch at least"):
            train_prior(tokens, prompts, clip, tmp_path, config, batch_size=batch_size, codebook_size=3, **SIZES)
    with pytest.raises(BadInputError, match="5 tokens a picture are no square grid"):
        train_prior(np.zeros((4, 5), dtype=np.int32), [["a"]] * 4, clip, tmp_path, config, batch_size=2, codebook_size=3, **SIZES)

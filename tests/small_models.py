"""Tiny models and tokenizers in folders, as transformers writes them: BERT, RoBERTa, Llama and GPT-2."""

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(36))]
FAMILIES = ("bert", "roberta", "llama", "gpt2")
ENCODERS = FAMILIES[:2]
TARGETS = {"bert": "query", "roberta": "query", "llama": "q_proj", "gpt2": "c_attn"}


def tokenizer_of(family):
    """Words to ids; an encoder's has [CLS] and [SEP] and no end, a decoder's an end and no padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(WORDS)}
    rules = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    if family not in ENCODERS:
        return PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="[UNK]", eos_token="[SEP]")
    ends = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    rules.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, **{f"{name}_token": word for name, word in names.items()}
    )


def config_of(family, **more):
    from transformers import AutoConfig

    own = {
        "bert": {"intermediate_size": 24, "pad_token_id": 0},
        "roberta": {"intermediate_size": 24, "pad_token_id": 0, "type_vocab_size": 1},
        "llama": {"intermediate_size": 24, "num_key_value_heads": 2, "pad_token_id": None},
        "gpt2": {"pad_token_id": None},
    }[family]
    return AutoConfig.for_model(
        family,
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=3,
        eos_token_id=3,
        **{**own, **more},
    )


def folder_of(family, path, seed=5):
    """Write a pretrained base, without any head, and its tokenizer; return the folder."""
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config_of(family))
        for p in model.parameters():  # far from the symmetric start: every part matters
            p.data += 0.2 * torch.randn_like(p)
    model.save_pretrained(path / family)
    tokenizer_of(family).save_pretrained(path / family)
    return path / family


def rows(count=120, labels=("good", "bad", "odd"), seed=0):
    """Return rows (text, label) of different lengths, whose words betray their label."""
    draw = torch.Generator().manual_seed(seed)

    def text(i):
        size = int(torch.randint(2, 12, (1,), generator=draw))
        words = torch.randint(0, 12, (size,), generator=draw) + 12 * (i % len(labels))
        return " ".join(f"w{int(w)}" for w in words)

    return [(text(i), labels[i % len(labels)]) for i in range(count)]

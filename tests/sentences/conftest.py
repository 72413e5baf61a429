"""A tiny encoder that stands for sentence-transformers, so that tests need no download."""

import types

import pytest
import torch
from torch import nn

from steadyflow.sentences import encoding


class Tokens(dict):
    def to(self, device):
        return self


class Tokenizer:
    """One token a letter; 0 is padding and 1 stands before every sentence."""

    def __call__(self, batch, max_length, **_):
        ids = [[1, *(2 + ord(letter) % 30 for letter in s)][:max_length] for s in batch]
        longest = max(map(len, ids))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
        return Tokens(input_ids=padded, attention_mask=(padded > 0).long())


class Network(nn.Module):
    """Three hidden states of 6 numbers; counts the sentences that pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(40, 6)
        self.config = types.SimpleNamespace(hidden_size=6)
        self.device = torch.device("cpu")
        self.seen = 0

    def forward(self, input_ids, attention_mask, output_hidden_states):
        self.seen += len(input_ids)
        first = self.table(input_ids)
        states = [first, first.tanh(), (first.cumsum(1) / 3).sin()]
        return types.SimpleNamespace(hidden_states=states)


@pytest.fixture
def network(monkeypatch):
    made = Network()
    module = types.SimpleNamespace(tokenizer=Tokenizer(), auto_model=made)
    monkeypatch.setattr(encoding, "_open", lambda source, device: module)
    return made

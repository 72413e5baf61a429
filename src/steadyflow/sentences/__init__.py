"""Sentences: encoding them, calibrating their vectors, comparing cosines with people.

    encode(sentences, encoder)      vectors of any encoder and pooling, kept on disk
    read_pairs(path)                pairs that people have judged
    sts_rows(...)                   Spearman's correlation, method by method
    calibrated(encoder, whitening)  a SentenceTransformer with the calibration inside

sentence-transformers is imported only where an encoder is opened (the extra ``[text]``).
"""

from steadyflow.sentences.encoding import Encoder, encode
from steadyflow.sentences.methods import Method
from steadyflow.sentences.module import LatentModule, calibrated
from steadyflow.sentences.pairs import Pairs, read_pairs, read_sentences
from steadyflow.sentences.pooling import Pooling
from steadyflow.sentences.table import Protocol, sts_rows

__all__ = [
    "Encoder",
    "LatentModule",
    "Method",
    "Pairs",
    "Pooling",
    "Protocol",
    "calibrated",
    "encode",
    "read_pairs",
    "read_sentences",
    "sts_rows",
]

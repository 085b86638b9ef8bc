"""Embeddings of prompt texts as vectors of unit length, for k-means."""

import re
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from dps_ray.errors import ModelError
from pipelines.data.hub import check_model

Vectors: TypeAlias = NDArray[np.float32] | csr_matrix

_FEATURES = 4096
_DIGIT = re.compile("[0-9]")
_TOKENS, _BATCH = 512, 32  # tokens that a model reads of a text; texts at a time


class Embedding(Protocol):
    def fit(self, texts: Sequence[str]) -> None:
        """Fits the embedding to a sample of texts."""

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """The vectors of the texts, float32 (texts, features)."""


class TfidfEmbedding:
    """Counts of character n-grams of length one to four, hashed to 4,096 features, weighted by TF-IDF.

    All digits are treated as the same character, because the kind of a prompt shows in the words and operators around
    numbers. The weight of a feature is (1 + ln count) * ln((1 + n) / (1 + m)), where m of the n texts have it. Text that
    all prompts share, such as an instruction, therefore has weight zero.
    """

    def __init__(self) -> None:
        self._counts = HashingVectorizer(
            analyzer="char",
            ngram_range=(1, 4),
            n_features=_FEATURES,
            alternate_sign=False,
            norm=None,
            dtype=np.float32,
        )
        self._weights = np.ones(_FEATURES, dtype=np.float32)

    def fit(self, texts: Sequence[str]) -> None:
        having = np.bincount(self._counted(texts).indices, minlength=_FEATURES)
        self._weights = np.log((1 + len(texts)) / (1 + having)).astype(np.float32)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        counts = self._counted(texts)
        counts.data = (1 + np.log(counts.data)) * self._weights[counts.indices]
        return normalize(counts, copy=False)

    def _counted(self, texts: Sequence[str]) -> csr_matrix:
        return self._counts.transform([_DIGIT.sub("0", text) for text in texts])


class ModelEmbedding:
    """The mean of a model's last hidden states over a text's first 512 tokens, as in sentence embedding models.

    Raises:
        ModelError: the model does not exist or has no tokenizer.
    """

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        try:
            check_model("", model)
            self._tokenizer = AutoTokenizer.from_pretrained(model)
            self._model = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"--embed {model} is no model: {reason}; write tfidf, the path of a Hugging Face folder, or the "
                "name of a model on the hub"
            ) from None
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")

    def fit(self, texts: Sequence[str]) -> None:
        pass

    def __call__(self, texts: Sequence[str]) -> Vectors:
        import torch

        order = np.argsort([len(text) for text in texts], kind="stable")  # reduces padding
        vectors = np.empty((len(texts), self._model.config.hidden_size), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                rows = order[start : start + _BATCH]
                tokens = self._tokenizer(
                    [texts[row] for row in rows],
                    padding=True,
                    truncation=True,
                    max_length=_TOKENS,
                    return_tensors="pt",
                ).to(self._model.device)
                states = self._model(**tokens).last_hidden_state
                mask = tokens["attention_mask"].unsqueeze(-1)
                mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
                vectors[rows] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return vectors

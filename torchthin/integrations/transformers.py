"""Folders of transformers (``pip install torchthin[hf]``).

::

    result = torchthin.prune(model, inputs, 0.5)
    result.save_pretrained("smaller")                        # AutoModel.from_pretrained("smaller") loads it
    save_pretrained(model, "smaller")                        # a model that thin_ thinned
    save_pretrained(model, "uneven", described=False)        # what no configuration describes ...
    from_pretrained("uneven")                                # ... this loads
    keep_tokens(model, tokenizer=tokenizer, texts=texts).save_pretrained("german-only")
"""

from torchthin.pruning.pretrained.load import from_pretrained
from torchthin.pruning.pretrained.save import save_pretrained
from torchthin.pruning.pretrained.vocabulary import VocabularyResult, keep_tokens

__all__ = ["VocabularyResult", "from_pretrained", "keep_tokens", "save_pretrained"]

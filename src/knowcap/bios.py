"""From a recipe to the bioS corpus that it describes: people, templates, tokenizer, windows."""

from __future__ import annotations

from tokenizers import Tokenizer

from knowcap.corpus.render import Templates
from knowcap.corpus.templates import load_templates
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import Pools, load_pools
from knowcap.packing import Stream
from knowcap.pieces import Pieces, check_whole_texts, used_tokens
from knowcap.recipe import Recipe
from knowcap.tokens import alphabet_of, load_backend, reduce_tokenizer, train_tokenizer


def people_of(recipe: Recipe) -> People:
    """The recipe's people. Raises PoolsError or PeopleError where there can be none."""
    return People(load_pools(recipe.pools_dir, recipe.pools_fraction), recipe.num_people, recipe.seed)


def templates_of(recipe: Recipe) -> Templates:
    """The recipe's sentence templates."""
    return load_templates(recipe.num_templates)


def tokenizer_of(recipe: Recipe, pools: Pools, templates: Templates) -> tuple[Tokenizer, int]:
    """The recipe's tokenizer, and the vocabulary rows that its model needs."""
    if recipe.tokenizer_name is None:
        backend = train_tokenizer(pools, templates, recipe.vocab_size)
        return reduce_tokenizer(backend, used_tokens(pools, templates, backend) | alphabet_of(backend))
    backend = load_backend(recipe.tokenizer_name)
    return reduce_tokenizer(backend, used_tokens(pools, templates, backend))


def stream_of(recipe: Recipe, people: People, templates: Templates, tokenizer: Tokenizer) -> Stream:
    """The recipe's windows; pieces are checked against whole texts on the way. Count them before use."""
    pieces = Pieces(people.pools, templates, tokenizer)
    check_whole_texts(pieces, people, tokenizer)
    return Stream(
        people,
        pieces,
        exposures=recipe.exposures,
        block_size=recipe.block_size,
        windows=recipe.windows,
        shard_size=recipe.shard_size,
    )

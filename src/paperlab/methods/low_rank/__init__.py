"""Low rank: products of thin matrices in place of weights, or beside them."""

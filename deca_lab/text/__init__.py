"""The data's way: rows of text, the clients' shards of them, tokens, tasks and scores."""

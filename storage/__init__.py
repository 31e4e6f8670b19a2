"""Where images, features and artifacts live: arrays and bytes only.

`storage.root` is a folder or an object store, `storage.images` what there is to embed,
`storage.cache` the embeddings; artifacts, the model registry and leases lie beside them.
"""

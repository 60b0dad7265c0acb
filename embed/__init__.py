"""One encoder, one vector space: text, code, images, video, audio, documents, and any interleaving of them."""

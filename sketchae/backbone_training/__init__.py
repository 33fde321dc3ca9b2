"""Train what ships in `sketchae/assets`: the small VAE, the small CLIP and the two judges, on Scenes."""

"""Packed models: how matrices are stored in few bits or sparse, and how a model is written so.

layout       what a recipe can ask for, and codes that were quantized elsewhere
tensors      a model in memory, as a source to pack
pack         from a model to a packed folder
channels     structured pruning: which rows and columns a matrix keeps
codebook     k-means codebooks
corrections  outliers kept exactly, and a low-rank term
container    safetensors files, and what a packed model's file contains
output       files and folders that appear complete or not at all
"""

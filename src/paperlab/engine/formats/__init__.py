"""File formats of other runtimes, read and written.

source              a model's tensors and configuration, from a folder, a packed folder or a GGUF file
tokenizer           its tokenizer, and what its folder says of texts
chat_template       chats as text, and the control tokens that no message may forge
sentence            from an encoder's tokens to a vector: poolings, and the layers behind
pack                `pack`, from GGUF files too
export              a model as Hugging Face safetensors, compressed-tensors or GGUF
compressed_tensors  the pack-quantized format of vLLM and transformers
gguf_reader         the fields of a GGUF file, and the tokenizer that they describe
gguf_writer         tensors and fields of a GGUF file
gguf_vocabulary     a tokenizer as fields of a GGUF file
floats              float32 as float16 or bfloat16
"""

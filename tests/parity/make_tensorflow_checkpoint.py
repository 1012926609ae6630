"""Write the TensorFlow checkpoint in `data/golden/tensorflow`, with TensorFlow itself.

TensorFlow is no part of any environment of this project; the stored files were made by 2.21.0:

    pip install tensorflow-cpu
    python tests/parity/make_tensorflow_checkpoint.py data/golden/tensorflow

It is laid out as the authors' pretraining: generator without embeddings, Adam's slots, counter.
`tests/test_weights_tensorflow.py` knows which value stands where.
"""

from __future__ import annotations

import sys

import numpy as np

Shapes = dict[str, tuple[int, ...]]
VOCAB, POSITIONS, EMBEDDING, TAPS = 11, 6, 6, 3


def encoder(root: str, d: int, heads: int) -> Shapes:
    """Return the variables of an encoder of two layers, d wide, below a root."""
    half, wide = d // 2, 4 * d
    shapes: Shapes = {f"{root}/embeddings_project/kernel": (EMBEDDING, d)}
    shapes[f"{root}/embeddings_project/bias"] = (d,)
    kernels = {
        "attention/self/query": (d, half),
        "attention/self/key": (d, half),
        "attention/self/value": (d, half),
        "attention/self/conv_attn_kernel": (half, heads * TAPS),
        "attention/self/conv_attn_point": (d, half),
        "attention/output/dense": (d, d),
        "intermediate/dense": (d, wide),
        "output/dense": (wide, d),
    }
    for layer in (f"{root}/encoder/layer_{j}" for j in range(2)):
        for name, shape in kernels.items():
            shapes[f"{layer}/{name}/kernel"] = shape
            shapes[f"{layer}/{name}/bias"] = shape[1:]
        shapes[f"{layer}/attention/self/conv_attn_key/depthwise_kernel"] = (TAPS, d, 1)
        shapes[f"{layer}/attention/self/conv_attn_key/pointwise_kernel"] = (1, d, half)
        shapes[f"{layer}/attention/self/conv_attn_key/bias"] = (half,)
        for name in ("attention/output/LayerNorm", "output/LayerNorm"):
            shapes |= {f"{layer}/{name}/gamma": (d,), f"{layer}/{name}/beta": (d,)}
    return shapes


def pretraining() -> Shapes:
    """Return all trainable variables: discriminator 8 wide, generator 4."""
    shapes = {
        "electra/embeddings/word_embeddings": (VOCAB, EMBEDDING),
        "electra/embeddings/position_embeddings": (POSITIONS, EMBEDDING),
        "electra/embeddings/token_type_embeddings": (2, EMBEDDING),
        "electra/embeddings/LayerNorm/gamma": (EMBEDDING,),
        "electra/embeddings/LayerNorm/beta": (EMBEDDING,),
        "generator_predictions/dense/kernel": (4, EMBEDDING),
        "generator_predictions/dense/bias": (EMBEDDING,),
        "generator_predictions/LayerNorm/gamma": (EMBEDDING,),
        "generator_predictions/LayerNorm/beta": (EMBEDDING,),
        "generator_predictions/output_bias": (VOCAB,),
        "discriminator_predictions/dense/kernel": (8, 8),
        "discriminator_predictions/dense/bias": (8,),
        "discriminator_predictions/dense_1/kernel": (8, 1),
        "discriminator_predictions/dense_1/bias": (1,),
    }
    return shapes | encoder("electra", 8, heads=2) | encoder("generator", 4, heads=1)


def main(folder: str) -> None:
    """Write the checkpoint; the n-th variable holds n, n + 1/8, n + 2/8, …"""
    import tensorflow

    tf = tensorflow.compat.v1
    tf.disable_eager_execution()
    values: dict[str, np.ndarray] = {}
    for n, (name, shape) in enumerate(sorted(pretraining().items())):
        count = int(np.prod(shape))
        values[name] = (n + np.arange(count, dtype="float32") / 8).reshape(shape)
        values |= {f"{name}/adam_{slot}": np.full(shape, 0.5, "float32") for slot in "mv"}
    values["global_step"] = np.int64(7)
    variables = [
        tf.get_variable(name, initializer=value, use_resource=False)
        for name, value in values.items()
    ]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(variables)
        saver.save(session, f"{folder}/model.ckpt", global_step=7, write_meta_graph=False)
    print("TensorFlow", tensorflow.__version__)


if __name__ == "__main__":
    main(sys.argv[1])

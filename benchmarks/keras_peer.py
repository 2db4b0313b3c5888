"""The reference study's pipeline: Keras `flow_from_dataframe` and the same network. A child in an environment of its own.

It imports nothing but the standard library, pandas and TensorFlow. The study scaled by 1/255 and flipped; it had eight loader
processes on its machine, here two threads read ahead.
"""

import argparse
import ctypes
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.workers import serve

BATCH = 64
"""Tiles a step; as in `peers`."""


def network(tf: Any, *, study_order: bool) -> Any:
    """Return the simple CNN in Keras for 96x96 tiles: the layers of `sentinode.nets.simple_cnn`, of the same sizes.

    In our order (pooling, norm, activation), or in the order of the study and of Keras's own examples: pooling last.
    """
    layers, names = tf.keras.layers, ("GlobalAveragePooling2D", "GlobalMaxPooling2D")
    inputs = x = tf.keras.Input((96, 96, 3))
    for width in (32, 64, 128):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = x if study_order else layers.MaxPooling2D(2)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D(2)(x) if study_order else x
    pooled = [getattr(layers, name)()(maps) for maps in (x, layers.Cropping2D(4)(x)) for name in names]
    x = layers.Dropout(0.3)(layers.Concatenate()(pooled))
    x = layers.Dense(128, activation="relu")(x)
    model = tf.keras.Model(inputs, layers.Dense(1, dtype="float32")(x))
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer=tf.keras.optimizers.Adam(1e-3), loss=loss)
    return model


def flow(tf: Any, kaggle: Path, limit: int | None) -> Any:
    """Return the study's reader: a frame of file names and labels, files read and scaled as they are needed, random flips."""
    import pandas as pd

    frame = pd.read_csv(kaggle / "train_labels.csv", dtype=str).sort_values("id")[:limit]
    frame["file"] = frame["id"] + ".tif"
    generator = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255, horizontal_flip=True, vertical_flip=True)
    made = generator.flow_from_dataframe(
        frame,
        directory=str(kaggle / "train"),
        x_col="file",
        y_col="label",
        target_size=(96, 96),
        batch_size=BATCH,
        class_mode="binary",
        shuffle=True,
        seed=0,
    )
    made.workers, made.max_queue_size = 2, 10
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kaggle", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--study-order", action="store_true")
    parser.add_argument("--switches", type=json.loads, metavar="MALLOPT", help="set every switch; the allocator's as JSON")
    options = parser.parse_args()
    for name, value in (options.switches or {}).items():
        ctypes.CDLL(None).mallopt(int(name), value)
    import tensorflow as tf  # type: ignore[import-untyped]

    if options.switches:
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")

    model, batches = network(tf, study_order=options.study_order), flow(tf, options.kaggle, options.limit)

    def work() -> dict[str, Any]:
        start = time.perf_counter()
        history = model.fit(batches, epochs=1, verbose=0)
        return {"seconds": time.perf_counter() - start, "n": batches.n, "loss": float(history.history["loss"][0])}

    first = work()
    serve(
        work,
        first_epoch_s=first["seconds"],
        weights=int(model.count_params()),
        versions={"tensorflow": tf.__version__, "keras": tf.keras.__version__},
        threads=tf.config.threading.get_intra_op_parallelism_threads(),
    )


if __name__ == "__main__":
    main()

"""What a TensorFlow tape was not asked for is not pushed; what cannot be pushed right is refused."""

import numpy as np
import pytest
from keras_beside import DIM, ON_TENSORFLOW, V, a_table, beside, keras, numpy, quiet, weights_of
from memory_client import MemoryClient

from rowloom.client.layers_keras import (
    Embedding,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    SharedEmbeddings,
    share_requests,
)
from rowloom.proto.spec import SGD, Adagrad, TableSpec

if not ON_TENSORFLOW:
    pytest.skip("tapes are TensorFlow's", allow_module_level=True)

import tensorflow as tf

pytestmark = quiet
both = pytest.mark.parametrize("compiled", [False, True])

IDS = np.array([1, 2, 2])


def unchanged(table, rows) -> None:
    assert not table.pushes
    np.testing.assert_array_equal(table.rows, rows)


def run(step, compiled):
    return (tf.function(step) if compiled else step)()


def a_dense(units=1):
    dense = keras.layers.Dense(units)
    dense.build((None, DIM))
    return dense


def built():
    """A table, its rows as they are, a layer over it and a dense one."""
    table = a_table()
    layer = Embedding(table)
    layer.build()
    return table, table.rows.copy(), layer, a_dense()


@both
@pytest.mark.parametrize("uses", [1, 2])
@pytest.mark.parametrize("recomputed", [False, True])
def test_the_gradient_of_dense_weights_alone_pushed_rows(compiled, uses, recomputed):
    table, before, layer, dense = built()

    def forward(ids):
        return tf.reduce_sum(dense(sum(layer(ids) for _ in range(uses))))

    def step():
        with tf.GradientTape() as tape:
            loss = (tf.recompute_grad(forward) if recomputed else forward)(tf.constant(IDS))
        return tape.gradient(loss, dense.trainable_variables)

    (kernel, _) = run(step, compiled)
    unchanged(table, before)
    np.testing.assert_allclose(kernel[:, 0], uses * before[IDS].sum(0), rtol=1e-5)


@both
@pytest.mark.parametrize("uses", [1, 2])
def test_two_optimizers_of_one_persistent_tape_pushed_twice(compiled, uses):
    table = a_table(SGD(lr=1.0))
    before, layer, dense = table.rows.copy(), Embedding(table), a_dense()
    layer.build()

    def step():
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_sum(sum(layer(tf.constant([1])) for _ in range(uses)) + 0 * dense.kernel[:, 0])
        first = tape.gradient(loss, dense.trainable_variables[:1])
        return first, tape.gradient(loss, layer.trainable_variables)

    run(step, compiled)
    assert len(table.pushes) == 1
    np.testing.assert_allclose(before[1] - table.rows[1], uses, rtol=1e-5)


@both
def test_a_generator_step_trained_the_embedding_of_the_discriminator(compiled):
    table = a_table()
    before, layer, generator = table.rows.copy(), Embedding(table), a_dense(DIM)

    def step():
        with tf.GradientTape() as of_generator, tf.GradientTape() as of_discriminator:
            made = generator(tf.ones((3, DIM))) * layer(tf.constant(IDS))
            loss = tf.reduce_sum(made)
        first = of_generator.gradient(loss, generator.trainable_variables)
        return first, of_discriminator.gradient(loss, layer.trainable_variables)

    run(step, compiled)
    ((ids, grads),) = table.pushes
    np.testing.assert_array_equal(ids, IDS)
    np.testing.assert_allclose(grads, numpy(generator(tf.ones((3, DIM)))), rtol=1e-5)
    assert not np.array_equal(before, table.rows)


@both
@pytest.mark.parametrize("sources", ["rows", "dense"])
def test_a_penalty_on_a_gradient_pushed_the_inner_gradient_too(compiled, sources):
    table = a_table()
    layer, local, dense = Embedding(table), beside(table), a_dense(3)
    layer.build()

    def step(embed):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                rows = embed(tf.constant(IDS))
                inner.watch(rows)
                loss = tf.reduce_sum(dense(rows) ** 3)
            slope = inner.gradient(loss, rows if sources == "rows" else dense.kernel)
            total = loss + tf.reduce_sum(slope**2)
        return outer.gradient(total, embed.trainable_variables)

    (wanted,) = step(local)
    wanted = weights_of(local) - 0.1 * tf.convert_to_tensor(wanted).numpy()
    run(lambda: step(layer), compiled)
    assert len(table.pushes) == 1
    np.testing.assert_allclose(table.rows, wanted, atol=1e-5)


@both
def test_of_layers_that_share_a_push_only_the_one_that_was_asked_for_is_trained(compiled):
    client = MemoryClient()
    tables = [client.create_table(TableSpec(name, V, DIM, optimizer=Adagrad(lr=0.1))) for name in "ab"]
    before = [table.rows.copy() for table in tables]
    layers = [Embedding(table) for table in tables]
    inputs = [keras.Input((), dtype="int64") for _ in tables]
    rows = [layer(one) for layer, one in zip(layers, inputs, strict=True)]
    model = share_requests(keras.Model(inputs, keras.ops.sum(rows[0] * rows[1], -1)))

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model([tf.constant([1, 2]), tf.constant([3, 4])]))
        return tape.gradient(loss, layers[1].trainable_variables)

    run(step, compiled)
    unchanged(tables[0], before[0])
    assert set(np.argwhere((tables[1].rows != before[1]).any(1))[:, 0]) == {3, 4}


@both
def test_bags_and_collections_that_were_not_asked_for_are_not_pushed(compiled):
    client = MemoryClient()
    configs = [
        EmbeddingBagConfig(num_embeddings=V, embedding_dim=DIM, name=name, feature_names=[name])
        for name in "ab"
    ]
    both_tables, table = EmbeddingBagCollection(client, configs), a_table()
    shared, dense = SharedEmbeddings(table), a_dense()
    ids = tf.constant([[1, 2], [3, -1]])

    def step():
        with tf.GradientTape() as tape:
            pooled = both_tables({"a": ids, "b": ids})
            pooled = pooled[:, :DIM] if not isinstance(pooled, dict) else pooled["a"]
            loss = tf.reduce_sum(dense(pooled + shared({"c": ids})["c"]))
        return tape.gradient(loss, dense.trainable_variables)

    run(step, compiled)
    assert not table.pushes
    assert not any(client.table(name).pushes for name in "ab")


def test_branches_and_loops_push_only_what_was_asked_for():
    table = a_table(SGD(lr=1.0))
    before, layer, dense = table.rows.copy(), Embedding(table), a_dense()
    layer.build()

    def step(on, sources):
        with tf.GradientTape() as tape:
            loss = tf.cond(on, lambda: tf.reduce_sum(dense(layer(tf.constant([1])))), lambda: 0.0)
            for id in tf.range(2, 4):
                loss += tf.reduce_sum(dense(layer(tf.fill([2], id))))
        return tape.gradient(loss, sources)

    tf.function(lambda on: step(on, dense.trainable_variables))(tf.constant(True))
    unchanged(table, before)
    tf.function(lambda on: step(on, layer.trainable_variables))(tf.constant(True))
    moved = before - table.rows
    np.testing.assert_allclose(moved[[1, 2, 3]], numpy(dense.kernel).T * [[1], [2], [2]], atol=1e-5)
    assert not moved[4:].any()


@both
def test_a_jacobian_by_the_anchor_pushed_one_row_twice(compiled):
    table, before, layer, dense = built()

    def step(sources):
        with tf.GradientTape(persistent=True) as tape:
            target = tf.reduce_sum(dense(layer(tf.constant(IDS))), 1)
        return tape.jacobian(target, sources, experimental_use_pfor=not compiled)

    with pytest.raises(
        Exception, match="a jacobian with respect to the variables of the layer over table 't'"
    ):
        run(lambda: step(layer.trainable_variables), compiled)
    kernel, _ = run(lambda: step(dense.trainable_variables), compiled)
    np.testing.assert_allclose(kernel[..., 0], before[IDS], rtol=1e-5)
    unchanged(table, before)


@both
def test_an_inner_gradient_of_the_anchor_that_another_tape_records_is_refused(compiled):
    table, before, layer, dense = built()

    def step():
        with tf.GradientTape():
            with tf.GradientTape() as inner:
                loss = tf.reduce_sum(dense(layer(tf.constant(IDS))) ** 2)
            return inner.gradient(loss, [*dense.trainable_variables, *layer.trainable_variables])

    with pytest.raises(Exception, match="leave the layer's variables out of the inner tape"):
        run(step, compiled)
    unchanged(table, before)


def test_a_persistent_tape_may_be_asked_inside_of_itself():
    table = a_table()
    layer = Embedding(table)
    layer.build()
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_sum(layer(tf.constant([1])))
        tape.gradient(loss, layer.trainable_variables)
    assert len(table.pushes) == 1


def pooled(layer):
    return lambda ids: tf.reduce_sum(layer(ids), 0)


@both
def test_a_vectorized_map_pulled_right_rows_and_pushed_nothing(compiled):
    table, before, layer, dense = built()
    ids = tf.constant([[1, 2], [2, 5]])

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(dense(tf.vectorized_map(pooled(layer), ids)))
        return tape.gradient(loss, [*dense.trainable_variables, *layer.trainable_variables])

    with pytest.raises(Exception, match=r"tf\.vectorized_map of the layer over table 't' under a tape"):
        run(step, compiled)
    unchanged(table, before)
    expected = before[ids].sum(1)
    np.testing.assert_allclose(
        run(lambda: tf.vectorized_map(pooled(layer), ids), compiled), expected, rtol=1e-5
    )
    layer.trainable = False
    kernel, _ = run(step, compiled)
    np.testing.assert_allclose(kernel[:, 0], expected.sum(0), rtol=1e-5)


def test_a_time_distributed_layer_was_not_trained_once_sequences_had_several_lengths():
    table, dense = a_table(), a_dense()
    given = keras.Input((None, 3), dtype="int32")
    rows = keras.layers.TimeDistributed(Embedding(table))(given)
    model = keras.Model(given, dense(keras.ops.mean(rows, (1, 2))))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = np.arange(12).reshape(2, 2, 3), np.ones((2, 1))
    for length in (1, 2):  # the second time a program for any length is made
        expected = numpy(dense(table.rows[x[:, :length]].mean((1, 2))))
        np.testing.assert_allclose(model.predict_on_batch(x[:, :length]), expected, rtol=1e-5)
    model.train_on_batch(x[:, :1], y)
    pushes = len(table.pushes)
    with pytest.raises(Exception, match="TimeDistributed has no use for one"):
        model.train_on_batch(x, y)
    assert len(table.pushes) == pushes


@both
@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_of_each_example_pushed_some_of_them(compiled, recomputed):
    table, before, layer, dense = built()

    def forward(ids):
        return tf.reduce_sum(dense(layer(ids)), 1)

    def step(anchors):
        with tf.GradientTape(persistent=True) as tape:
            target = (tf.recompute_grad(forward) if recomputed else forward)(tf.constant(IDS))

        def of_one(place):
            weight = tf.one_hot(place, len(IDS))
            return tape.gradient(target, [dense.kernel, *anchors], output_gradients=weight)[0]

        return tf.vectorized_map(of_one, tf.range(len(IDS)))

    with pytest.raises(Exception, match=r"so would gradients in tf\.vectorized_map"):
        run(lambda: step(layer.trainable_variables), compiled)
    unchanged(table, before)
    np.testing.assert_allclose(run(lambda: step([]), compiled)[..., 0], before[IDS], rtol=1e-5)
    unchanged(table, before)


@both
def test_a_forward_accumulator_of_the_anchor_pushed_ones(compiled):
    table, before, layer, dense = built()

    def step(variables):
        primals = [variable.value for variable in variables]
        with tf.autodiff.ForwardAccumulator(primals, [tf.ones_like(one) for one in primals]) as forward:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(dense(layer(tf.constant(IDS))) ** 2)
            gradient = tape.gradient(loss, dense.kernel)
        return forward.jvp(gradient)

    with pytest.raises(Exception, match="pushes have no forward mode"):
        run(lambda: step([dense.kernel, *layer.trainable_variables]), compiled)
    unchanged(table, before)
    rows = before[IDS]
    expected = 2 * (rows.T @ rows).sum(1)  # the hessian of a sum of squares
    np.testing.assert_allclose(run(lambda: step([dense.kernel]), compiled)[:, 0], expected, rtol=1e-4)
    unchanged(table, before)

"""The Keras layers beside keras.layers.Embedding, on the backend that KERAS_BACKEND names."""

import math

import numpy as np
import pytest
from keras_beside import (
    DIM,
    ON_TENSORFLOW,
    V,
    a_table,
    beside,
    fit,
    keras,
    numpy,
    only_tensorflow,
    quiet,
    two_inputs,
    two_uses,
    weights_of,
)
from memory_client import MemoryClient

from rowloom.client.layers_keras import Embedding, SharedEmbeddings, tables_of
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import SGD, Adagrad, TableSpec

pytestmark = quiet


# ------------------------------------------------------------------------------------------------------ lookups


def test_rows_come_in_the_order_of_the_ids():
    layer = Embedding(a_table(rows=np.array([[0, 0], [2, 2], [3, 3]], np.float32)))
    np.testing.assert_array_equal(numpy(layer(np.array([2, 1, 0]))), [[3, 3], [2, 2], [0, 0]])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "float32"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 0), (2, 1, 3)])
def test_every_type_and_shape_of_ids_gives_what_keras_gives(dtype, shape):
    table = a_table()
    ids = keras.ops.convert_to_tensor(np.random.default_rng(1).integers(0, V, shape), dtype=dtype)
    got = Embedding(table)(ids)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    np.testing.assert_array_equal(numpy(got), numpy(beside(table)(ids)))


def test_rows_of_any_shape_are_looked_up():
    table = a_table(rows=np.arange(24, dtype=np.float32).reshape(4, 2, 3))
    layer = Embedding(table)
    assert layer(np.array([[1, 2]])).shape == (1, 2, 2, 3)
    assert layer.compute_output_shape((None, 7)) == (None, 7, 2, 3)


def test_mask_zero_masks_and_still_looks_row_zero_up_and_trains_it():
    table = a_table()
    layer = Embedding(table, mask_zero=True)
    ids = np.array([[2, 1, 0]])
    assert layer.supports_masking
    np.testing.assert_array_equal(numpy(layer.compute_mask(ids)), [[True, True, False]])
    np.testing.assert_array_equal(numpy(layer(ids))[0, 2], table.rows[0])
    before = table.rows.copy()
    inner = keras.Input((3,), dtype="int32")
    model = keras.Model(inner, keras.ops.sum(layer(inner), axis=(1, 2))[:, None])
    fit(model, ids, np.ones((1, 1)))
    assert np.abs(table.rows[0] - before[0]).max() > 0
    assert Embedding(a_table(), mask_zero=False).compute_mask(ids) is None


@pytest.mark.skipif(ON_TENSORFLOW, reason="of the torch backend: needs KERAS_BACKEND=torch")
def test_asking_torch_for_the_gradients_of_parameters_trains_no_table():
    import torch

    table = a_table()
    before, layer = table.rows.copy(), Embedding(table)
    loss = layer(torch.tensor([1, 2]), training=True).sum()
    torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    np.testing.assert_array_equal(table.rows, before)
    loss.backward()
    assert np.flatnonzero((table.rows != before).any(axis=1)).tolist() == [1, 2]


def test_the_mask_reaches_the_layers_behind():
    table = a_table()
    x = np.array([[1, 2, 0], [3, 0, 0]])
    layer, local = Embedding(table, mask_zero=True), keras.layers.Embedding(V, DIM, mask_zero=True)
    local.build()
    local.embeddings.assign(table.rows)
    got, want = (keras.layers.GlobalAveragePooling1D()(one(x)) for one in (layer, local))
    np.testing.assert_allclose(numpy(got), numpy(want), rtol=1e-6)


def test_an_id_that_the_table_lacks_is_refused_by_name():
    layer = Embedding(a_table())
    with pytest.raises(InvalidRequest, match=r"is 20, table 't' has ids in \[0, 20\)"):
        layer(np.array([3, 20]))


def test_a_symbolic_call_pulls_nothing():
    table = a_table()
    out = Embedding(table)(keras.Input((None, 7), dtype="int32"))
    assert out.shape == (None, None, 7, DIM)
    assert table.pulls == 0


@only_tensorflow
def test_sparse_ids_are_read_as_zero_where_there_is_none():
    import tensorflow as tf

    layer = Embedding(a_table(rows=np.array([[0, 0], [2, 2], [3, 3]], np.float32)))
    ids = tf.SparseTensor([[0, 0], [1, 2]], [2, 1], (2, 3))
    want = [[[3, 3], [0, 0], [0, 0]], [[0, 0], [0, 0], [2, 2]]]
    np.testing.assert_array_equal(numpy(layer(ids)), want)


@only_tensorflow
def test_ragged_ids_give_ragged_rows():
    import tensorflow as tf

    table = a_table()
    ids = tf.ragged.constant([[1, 2], [], [3]])
    got = Embedding(table)(ids)
    assert got.shape.as_list() == [3, None, DIM]
    np.testing.assert_array_equal(got.flat_values.numpy(), table.rows[[1, 2, 3]])
    symbolic = Embedding(table)(keras.KerasTensor((2, None), dtype="int32", ragged=True))
    assert symbolic.ragged


# ----------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("eagerly", [False, True])
def test_fit_with_a_layer_used_twice_has_the_losses_and_rows_of_keras(eagerly):
    table = a_table()
    local = beside(table)
    x, y = two_inputs()
    got = fit(two_uses(Embedding(table)), x, y, run_eagerly=eagerly)
    want = fit(two_uses(local), x, y)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(table.rows, weights_of(local), rtol=0, atol=1e-6)
    assert len(table.pushes) == 4 * 3, "one push a step"


def test_a_model_that_was_said_to_be_compiled_in_part_is_trained_as_it_is():
    table = a_table()
    local = beside(table)
    x, y = two_inputs()
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        got = fit(two_uses(Embedding(table)), x, y, jit_compile=True)
    np.testing.assert_allclose(got, fit(two_uses(local), x, y), rtol=1e-5)
    np.testing.assert_allclose(table.rows, weights_of(local), atol=1e-6)


@pytest.mark.parametrize("eagerly", [False, True])
def test_adagrad_sees_the_gradients_of_all_uses_as_one(eagerly):
    table = a_table(Adagrad(lr=0.1, eps=1e-7, initial_accumulator=0.1))
    rows, sums = table.rows.copy(), np.full_like(table.rows, 0.1)
    x, y = two_inputs()
    fit(two_uses(Embedding(table)), x, y, run_eagerly=eagerly)
    # Keras' own Adagrad on TensorFlow squares the gradients of duplicate ids one by one, so the reference adds them up.
    for ids, grads in table.pushes:
        total = np.zeros_like(rows)
        np.add.at(total, ids, grads)
        sums += total * total
        rows -= np.float32(0.1) * total / (np.sqrt(sums) + np.float32(1e-7))
    assert len(table.pushes) == 4 * 3
    np.testing.assert_allclose(table.rows, rows, rtol=0, atol=1e-6)


def test_adagrad_matches_keras_where_no_id_repeats():
    table = a_table(Adagrad(lr=0.1, eps=1e-7, initial_accumulator=0.1))
    local = beside(table)
    x = np.stack([np.random.default_rng(k).permutation(V)[:4] for k in range(16)]).astype("int32")
    y = np.ones((16, 1), "float32")

    def model(layer):
        inner = keras.Input((4,), dtype="int32")
        return keras.Model(inner, keras.ops.sum(layer(inner), axis=(1, 2))[:, None])

    losses = []
    for layer in (Embedding(table), local):
        m = model(layer)
        m.compile(keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.1, epsilon=1e-7), "mse")
        history = m.fit(x, y, batch_size=1, epochs=3, shuffle=False, verbose=0).history
        losses.append([float(loss) for loss in history["loss"]])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(table.rows, weights_of(local), rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop", "Adagrad", "AdamW"])
def test_any_optimizer_beside_leaves_the_anchor_at_zero(optimizer):
    table = a_table()
    layer = Embedding(table, clipnorm=math.inf)
    x, y = two_inputs()
    fit(two_uses(layer), x, y, getattr(keras.optimizers, optimizer)(0.01, clipnorm=1.0))
    assert len(layer.trainable_weights) == 1
    assert float(numpy(layer.anchor)) == 0
    assert len(table.pushes) == 12


def test_a_model_without_other_weights_trains():
    table = a_table()
    inner = keras.Input((2,), dtype="int32")
    model = keras.Model(inner, keras.ops.sum(Embedding(table)(inner), axis=(1, 2))[:, None])
    losses = fit(model, np.array([[1, 2]] * 16), np.ones((16, 1)))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("why", ["frozen table", "trainable=False", "set later"])
def test_what_is_frozen_is_not_pushed(why):
    table = a_table(frozen=why == "frozen table")
    layer = Embedding(table, **({"trainable": False} if why == "trainable=False" else {}))
    if why == "set later":
        layer.trainable = False
    before = table.rows.copy()
    x, y = two_inputs()
    fit(two_uses(layer), x, y)
    assert layer.trainable_weights == []
    assert table.pushes == []
    np.testing.assert_array_equal(table.rows, before)


def test_evaluate_and_predict_push_nothing():
    table = a_table()
    model = two_uses(Embedding(table))
    x, y = two_inputs()
    model.compile("sgd", "mse")
    model.evaluate(x, y, verbose=0)
    assert model.predict(x, verbose=0).shape == (64, 1)
    assert table.pushes == []


def test_bfloat16_rows_push_float32_gradients_and_float16_is_refused():
    table = a_table()
    layer = Embedding(table, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(np.array([1])).dtype) == "bfloat16"
    x, y = two_inputs()
    fit(two_uses(layer), x, y)
    assert len(table.pushes) == 12
    with pytest.raises(InvalidRequest, match="float16 needs loss scaling"):
        Embedding(table, dtype="mixed_float16")(np.array([1]))
    Embedding(table, dtype="mixed_float16", trainable=False)(np.array([1]))


def test_a_refused_push_ends_fit():
    table = a_table()
    model = two_uses(Embedding(table))
    x, y = two_inputs()
    y[0] = np.inf
    table.push = lambda ids, grads: (_ for _ in ()).throw(InvalidRequest("grads must be finite"))
    with pytest.raises(Exception, match="grads must be finite"):
        fit(model, x, y)


@only_tensorflow
def test_a_call_before_the_tape_does_not_hide_the_calls_under_it():
    import tensorflow as tf

    table = a_table()
    layer = Embedding(table)
    ids = tf.constant([1, 2])

    @tf.function
    def step():
        layer(ids)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(ids)) + tf.reduce_sum(layer(ids))
        return tape.gradient(loss, layer.trainable_variables)

    for one in (step, step.python_function):
        table.pushes.clear()
        assert float(one()[0]) == 0
        ((pushed, grads),) = table.pushes
        np.testing.assert_array_equal(np.sort(pushed), [1, 1, 2, 2])
        np.testing.assert_array_equal(grads, np.ones((4, DIM)))


@only_tensorflow
def test_two_tapes_in_one_program_push_each_for_itself():
    import tensorflow as tf

    table = a_table()
    layer = Embedding(table)

    @tf.function
    def step():
        for ids in ([1], [2]):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(tf.constant(ids)))
            tape.gradient(loss, layer.trainable_variables)

    step()
    assert [ids.tolist() for ids, _ in table.pushes] == [[1], [2]]


@only_tensorflow
def test_a_tape_around_a_function_pushes_once():
    import tensorflow as tf

    table = a_table()
    layer = Embedding(table)

    @tf.function
    def forward():
        return tf.reduce_sum(layer(tf.constant([1])) * layer(tf.constant([2])))

    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = forward()
        tape.gradient(loss, layer.trainable_variables)
    assert [ids.tolist() for ids, _ in table.pushes] == [[1, 2]] * 2


@pytest.mark.skipif(ON_TENSORFLOW, reason="PyTorch's own loop")
def test_a_loop_of_pytorch_with_its_own_optimizer_pushes_in_backward():
    import torch

    table = a_table()
    layer = Embedding(table)
    first, second = layer(torch.tensor([1, 2])), layer(torch.tensor([2]))
    (first.sum() + 3 * second.sum()).backward()
    ((ids, grads),) = table.pushes
    total = np.zeros((3, DIM))
    np.add.at(total, ids, grads)
    np.testing.assert_array_equal(total, [[0] * DIM, [1] * DIM, [4] * DIM])
    with torch.no_grad():
        assert not layer(torch.tensor([1])).requires_grad


# ------------------------------------------------------------------------------------------------------- saving


@pytest.mark.skipif(ON_TENSORFLOW, reason="of the torch backend: needs KERAS_BACKEND=torch")
def test_a_gradient_of_the_anchors_gradient_was_zero_on_torch_and_is_refused():
    import torch

    layer = Embedding(a_table())
    loss = layer(torch.tensor([1, 2])).pow(3).sum()
    (slope,) = torch.autograd.grad(loss, layer.anchor.value, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        (loss + slope**2).backward()


@pytest.mark.skipif(ON_TENSORFLOW, reason="of the torch backend: needs KERAS_BACKEND=torch")
def test_a_gradient_with_the_negative_bit_could_not_be_read_on_torch():
    import torch

    table = a_table(SGD(lr=1.0))
    before, layer = table.rows.copy(), Embedding(table)
    rows = layer(torch.tensor([1, 2]))
    square = torch.complex(torch.ones_like(rows), rows).conj() ** 2  # 1 - rows ** 2 - 2i rows
    square.imag.sum().backward()
    np.testing.assert_allclose(table.rows[[1, 2]], before[[1, 2]] + 2, rtol=1e-6)


def test_a_saved_model_says_where_the_table_is(tmp_path):
    client = MemoryClient()
    client.create_table(TableSpec("t", V, DIM))
    table = client.table("t")
    model = two_uses(Embedding(table, mask_zero=True, name="emb"))
    model.save(tmp_path / "m.keras")
    with pytest.raises(InvalidRequest, match="table 't' is on a cluster: load inside"):
        keras.models.load_model(tmp_path / "m.keras")
    with tables_of(client):
        again = keras.models.load_model(tmp_path / "m.keras")
    assert again.get_layer("emb").table is table
    assert again.get_layer("emb").mask_zero
    x, _ = two_inputs()
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
    config = SharedEmbeddings(table, combiner={"a": "sum"}, max_norm=2.0, default_id=1).get_config()
    with tables_of(client):
        layer = SharedEmbeddings.from_config(config)
    assert (layer.combiner, layer.max_norm, layer.default_id) == ({"a": "sum"}, 2.0, 1)


def test_a_layer_wants_a_table():
    with pytest.raises(InvalidRequest, match="table must be a Table"):
        Embedding(1000)


def test_it_trains_on_a_real_cluster(client):
    spec = TableSpec("t", V, DIM, partition="div", optimizer=Adagrad(lr=0.1))
    table = client.create_table(spec)
    x, y = two_inputs()
    losses = fit(two_uses(Embedding(table)), x, y)
    assert losses[-1] < losses[0]


def test_a_negative_id_is_refused_as_any_that_the_table_lacks():
    layer = Embedding(a_table())
    for ids in ([3, -1], [-(2**31)], [V]):
        with pytest.raises(InvalidRequest, match=rf"is {ids[-1]}, table 't' has ids in \[0, {V}\)"):
            layer(np.array(ids))


# ------------------------------------------------------------------------------------------------------ edges


def test_numbers_that_are_no_ids_are_refused_by_their_value_where_a_cast_makes_ids_of_them():
    table = MemoryClient().create_table(TableSpec("open", None, dim=DIM))
    for value, dtype, shown in [
        (np.nan, "float32", "nan"),
        (np.inf, "float32", "inf"),
        (1e20, "float32", r"1.0\d*e\+20"),
        (-1e20, "float64", r"-1e\+20"),
        (2**63, "uint64", str(2**63)),
        (2**64 - 1, "uint64", str(2**64 - 1)),
    ]:
        if dtype == "uint64" and not ON_TENSORFLOW:  # Keras itself refuses the type
            continue
        ids = np.array([[1, value]]).astype(dtype) if dtype != "uint64" else np.array([[1, value]], np.uint64)
        with pytest.raises(
            InvalidRequest, match=rf"ids\[\d.*\] is {shown}, ids are whole numbers below 2\*\*63"
        ):
            Embedding(table)(ids)
        with pytest.raises(InvalidRequest, match=rf"is {shown}, ids are whole numbers"):
            SharedEmbeddings(table)({"x": ids})
    assert table.pulls == 0


def test_numbers_of_the_last_types_that_hold_them_are_ids():
    table = a_table()
    kinds = [np.float64, np.float16, np.uint32] + [np.uint64] * ON_TENSORFLOW
    for ids in (np.array([19.9, 3.0]), *(np.array([19, 3], kind) for kind in kinds)):
        np.testing.assert_array_equal(numpy(Embedding(table)(ids)), table.rows[[19, 3]])


def test_numbers_that_are_no_ids_are_refused_in_a_compiled_model_too():
    x = keras.Input((2,), dtype="float32")
    model = keras.Model(x, Embedding(a_table())(x))
    np.testing.assert_array_equal(model.predict(np.array([[1.0, 2.0]]), verbose=0).shape, (1, 2, DIM))
    with pytest.raises(Exception, match="is nan, ids are whole numbers"):
        model.predict(np.array([[1.0, np.nan]]), verbose=0)


def test_masked_ids_are_refused_before_keras_drops_their_mask():
    ids = np.ma.array([[1, 2]], mask=[[False, True]])
    with pytest.raises(InvalidRequest, match=r"ids\[0, 1\] is masked, and 1 of 2 are"):
        Embedding(a_table())(ids)
    with pytest.raises(InvalidRequest, match="is masked"):
        SharedEmbeddings(a_table())({"x": ids})
    layer = Embedding(a_table())
    assert layer(np.ma.array([[1, 2]])).shape == (1, 2, DIM)


@pytest.mark.parametrize("argument", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_an_optimizer_that_clips_is_refused_until_the_layer_says_what_holds_for_the_table(argument):
    x, y = two_inputs()
    optimizer = keras.optimizers.SGD(0.1, **{argument: 0.5})
    with pytest.raises(InvalidRequest, match=rf"the optimizer's {argument}=0.5 does not reach .* table 't'"):
        fit(two_uses(Embedding(a_table())), x, y, optimizer)
    free, plain = a_table(), a_table()
    fit(two_uses(Embedding(free, clipnorm=math.inf)), x, y, keras.optimizers.SGD(0.0, **{argument: 0.5}))
    fit(two_uses(Embedding(plain)), x, y, keras.optimizers.SGD(0.0))
    np.testing.assert_allclose(free.rows, plain.rows, atol=1e-6)
    model = two_uses(Embedding(a_table()))
    model.compile(keras.optimizers.SGD(0.1, **{argument: 0.5}), "mse")
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    frozen = Embedding(a_table(), trainable=False)
    fit(two_uses(frozen), x, y, keras.optimizers.SGD(0.1, **{argument: 0.5}))


@pytest.mark.parametrize("clipnorm", [0.01, 100.0])
def test_clipnorm_of_a_layer_clips_as_that_of_an_optimizer_clips_a_weight(clipnorm):
    table = a_table()
    local = beside(table)
    ids, y = np.arange(16)[:, None], np.full((16, 1), 5.0)
    models = []
    for layer in (Embedding(table, clipnorm=clipnorm), local):
        x = keras.Input((1,), dtype="int32")
        models.append(keras.Model(x, keras.ops.sum(layer(x), axis=(1, 2))[:, None]))
    for model in models:
        fit(model, ids, y, keras.optimizers.SGD(0.1, clipnorm=clipnorm))
    np.testing.assert_allclose(table.rows, weights_of(local), atol=1e-6)


def test_the_gradients_of_a_repeated_id_count_as_their_sum_in_clipnorm():
    table = a_table(rows=np.zeros((3, 2), np.float32), optimizer=SGD(lr=1.0))
    x = keras.Input((2,), dtype="int32")
    model = keras.Model(x, keras.ops.sum(Embedding(table, clipnorm=0.5)(x), axis=(1, 2))[:, None])
    model.compile(keras.optimizers.SGD(0.1), loss=lambda y, p: keras.ops.mean(p))
    model.train_on_batch(np.array([[1, 1]]), np.zeros((1, 1)))
    np.testing.assert_allclose(np.linalg.norm(table.rows), 0.5, rtol=1e-6)


def test_a_saved_layer_keeps_its_clipnorm_and_a_wrong_one_is_refused():
    assert Embedding(a_table(), clipnorm=2.0).get_config()["clipnorm"] == 2.0
    with pytest.raises(InvalidRequest, match="clipnorm must be above 0, got 0"):
        Embedding(a_table(), clipnorm=0)

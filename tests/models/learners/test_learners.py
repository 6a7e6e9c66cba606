import pytest
import torch
from pydantic import TypeAdapter
from sklearn.linear_model import LogisticRegression

from models.encoders.features import extract_features
from models.encoders.params import Readout
from models.errors import ModelError
from models.learners import FinetuneParams, LearnerParams, LinearProbeParams, fit_classifier
from models.learners.averaging import WeightAverage
from models.learners.finetune import StandardisedClassifier
from models.learners.logistic import assign_folds, choose_penalty, fit_logistic
from tests.models.easy_images import easy_images, plain_augment, small_encoder

READOUT = Readout(grid=2, stages=2)
QUICK = FinetuneParams(steps=18, batch_size=16, warmup_steps=3, readout=READOUT, lr=1e-2, ema=0.5)
PROBE = LinearProbeParams(readout=READOUT)


def learn(params, seed=0, encoder=None, on_report=None, **changes):
    images, labels = easy_images(48, seed=5)
    given = {"images": images, "labels": labels, "classes": 4, "augment": plain_augment} | changes
    return fit_classifier(
        params, encoder or small_encoder(), **given, seed=seed, on_report=on_report
    )


def accuracy(classifier):
    images, labels = easy_images(200, seed=77)
    return (classifier.predict_proba(images).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("penalty", [0.01, 0.5])
@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_agrees_with_scikit_learn(classes, penalty):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 7, generator=generator, dtype=torch.float64)
    labels = torch.arange(60) % classes
    features[:, 0] += labels
    weight, bias = fit_logistic(features, labels, classes, penalty)
    peer = LogisticRegression(C=1 / (penalty * 60), tol=1e-10, max_iter=5000)
    peer.fit(features.numpy(), labels.numpy())
    mine = (features @ weight.T + bias).softmax(1)
    # For two classes scikit-learn penalises one vector w where we penalise +w/2 and -w/2.
    if classes == 2:
        peer = LogisticRegression(C=2 / (penalty * 60), tol=1e-10, max_iter=5000)
        peer.fit(features.numpy(), labels.numpy())
    assert torch.allclose(mine, torch.tensor(peer.predict_proba(features.numpy())), atol=1e-4)


def test_linear_probe_is_scikit_learns_regression_on_standardised_features():
    images, labels = easy_images(48, seed=5)
    encoder = small_encoder()
    probe = learn(LinearProbeParams(readout=READOUT, penalties=(0.1,)), encoder=encoder)
    features = extract_features(encoder, images, readout=READOUT).double()
    std = features.std(0, correction=0)
    standard = ((features - features.mean(0)) / (std + 1e-3 * std.mean())).numpy()
    peer = LogisticRegression(C=1 / (0.1 * 48), tol=1e-9, max_iter=5000)
    peer.fit(standard, labels.numpy())
    expected = torch.tensor(peer.predict_proba(standard)).float()
    assert torch.allclose(probe.predict_proba(images), expected, atol=2e-3)


def test_linear_probe_leaves_the_encoder_as_it_was():
    encoder = small_encoder()
    probe = learn(PROBE, encoder=encoder)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, probe.encoder.state_dict()[name]), name


def test_folds_are_stratified_and_never_hold_out_the_only_one_of_a_class():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2])
    fold = assign_folds(labels, 5)
    for held in range(5):
        assert (labels[fold == held] == 0).sum() == 2
        assert (labels[fold == held] == 1).sum() == 1
    assert fold[-1] == -1


def test_cross_validation_prefers_strong_penalties_on_noise_and_weak_ones_on_signal():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    noise = torch.randn(60, 30, generator=generator, dtype=torch.float64)
    signal = noise.clone()
    signal[:, 0] += 8 * labels
    candidates = (0.001, 0.1, 10.0)
    assert choose_penalty(noise, labels, 2, candidates, 5) == 10.0
    assert choose_penalty(signal, labels, 2, candidates, 5) < 10.0


def test_one_label_a_class_is_enough():
    images, labels = easy_images(4)
    for params in (PROBE, QUICK):
        classifier = learn(params, images=images, labels=labels)
        assert torch.isfinite(classifier.predict_proba(images)).all()


@pytest.mark.parametrize("params", [PROBE, QUICK], ids=lambda params: params.name)
def test_learners_solve_an_easy_task(params):
    assert accuracy(learn(params)) > 0.9


@pytest.mark.parametrize("params", [PROBE, QUICK], ids=lambda params: params.name)
def test_learning_leaves_the_callers_encoder_and_generator_alone(params):
    encoder = small_encoder().train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    rng = torch.get_rng_state()
    learn(params, encoder=encoder)
    assert all(torch.equal(before[name], t) for name, t in encoder.state_dict().items())
    assert encoder.training
    assert torch.equal(torch.get_rng_state(), rng)


def test_same_seed_learns_the_same_bits_whatever_ran_before_and_another_seed_others():
    torch.manual_seed(1)
    first = learn(QUICK, seed=3).state_dict()
    torch.manual_seed(2)
    second = learn(QUICK, seed=3).state_dict()
    other = learn(QUICK, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_finetuning_changes_the_encoder_and_reports_a_falling_loss():
    encoder = small_encoder()
    reports = []
    classifier = learn(QUICK, encoder=encoder, on_report=lambda *report: reports.append(report))
    assert [step for step, _ in reports] == list(range(1, 19))
    assert reports[-1][1]["loss"] < reports[0][1]["loss"]
    weights = [model.network.stem[0].weight for model in (encoder, classifier.encoder)]
    assert not torch.equal(*weights)


def test_encoder_lr_zero_trains_the_head_alone():
    encoder = small_encoder()
    frozen = QUICK.model_copy(update={"encoder_lr": 0.0})
    classifier = learn(frozen, encoder=encoder)
    for mine, theirs in zip(encoder.parameters(), classifier.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_first_head_is_a_probes_or_knows_nothing():
    hardly = QUICK.model_copy(update={"lr": 1e-9, "steps": 3})
    assert accuracy(learn(hardly)) > 0.9
    ignorant = learn(hardly.model_copy(update={"start_from_probe": False}))
    images, _ = easy_images(20, seed=77)
    assert torch.allclose(ignorant.predict_proba(images), torch.tensor(0.25), atol=1e-3)


def test_the_penalty_stays_on_the_head():
    # From 0, so that the probe's own penalty plays no part.
    unled = QUICK.model_copy(update={"start_from_probe": False, "steps": 90})
    light, heavy = (
        learn(unled.model_copy(update={"head_penalty": penalty})).head.weight.norm()
        for penalty in (0.01, 3.0)
    )
    assert light > 1.5 * heavy


def test_folded_classifier_computes_what_the_trained_one_did():
    model = StandardisedClassifier(small_encoder(), 4, READOUT)
    torch.nn.init.normal_(model.head.weight)
    images = torch.rand(32, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    model(images)  # gives batch norm its statistics
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(images), model.folded()(images), atol=1e-3)


def test_weight_average_trails_the_model_and_memory_zero_follows_it():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    trailing, following = WeightAverage(model, 0.9), WeightAverage(model, 0.0)
    torch.nn.init.ones_(model.weight)
    trailing.update(model)
    following.update(model)
    assert trailing.module.weight.item() == pytest.approx(0.9)  # memory 1 / 10 at first
    for _ in range(100):
        trailing.update(model)
    assert trailing.module.weight.item() == pytest.approx(1.0, abs=1e-3)
    assert following.module.weight.item() == 1.0


def test_labels_that_do_not_fit_are_explained():
    images, labels = easy_images(8)
    for changes, message in [
        ({"labels": labels[:5]}, "8 images but 5 labels"),
        ({"labels": labels - 1}, "label -1 is outside the 4 classes"),
        ({"classes": 5}, "class 4 has no labelled image"),
    ]:
        with pytest.raises(ModelError, match=message):
            learn(PROBE, **({"images": images, "labels": labels} | changes))


def test_diverging_finetuning_is_explained():
    def broken(images, seed):
        return plain_augment(images, seed) * float("nan")

    with pytest.raises(ModelError, match="fine-tuning diverged: the loss is nan after step 1"):
        learn(QUICK, augment=broken)


def test_learner_params_are_told_apart_by_name():
    adapter = TypeAdapter(LearnerParams)
    assert isinstance(adapter.validate_python({"name": "linear-probe"}), LinearProbeParams)
    assert isinstance(adapter.validate_python({"name": "finetune"}), FinetuneParams)
    with pytest.raises(ValueError, match="does not match any of the expected tags"):
        adapter.validate_python({"name": "boosting"})

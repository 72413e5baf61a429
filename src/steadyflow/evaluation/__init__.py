"""What a trained model is worth, in numbers: likelihoods, latents, distances between samples.

    evaluate(model, dataset.test)           log-likelihood with its standard error and its meaning
    classify(model, dataset.test)           how often a model of classes finds the class
    latent_gaussianity(model, x)            are the latents of data what the base says they are?
    interpolate(model, a, b, steps=9)       the way from one real example to another
    classifier_test(samples, x)             how well does a classifier tell them apart?
    kernel_distance(samples, x)             are samples and data told apart?
    nearest_neighbours(samples, x)          are samples copies of training data?
    image_quality(samples, x, train)        both for images, on pixels and on features
    attribute_direction(model, a, b)        what tells two groups apart; `manipulate` adds it
    complete(model, x, known)               the missing pixels of images, drawn given the others
    importance_weights(log_ratios)          can weights of draws be trusted, and what they give

Nothing here draws a picture (that is `steadyflow.report`) or knows how a model was trained.
"""

from steadyflow.evaluation.attributes import attribute_direction, attribute_score, manipulate
from steadyflow.evaluation.classification import Classification, classify
from steadyflow.evaluation.completion import complete
from steadyflow.evaluation.importance import ImportanceWeights, importance_weights
from steadyflow.evaluation.interpolation import interpolate, slerp
from steadyflow.evaluation.latents import LatentGaussianity, latent_gaussianity
from steadyflow.evaluation.likelihood import Evaluation, evaluate, log_likelihoods
from steadyflow.evaluation.quality import ImageQuality, image_quality
from steadyflow.evaluation.round_trip import RoundTrip, round_trip
from steadyflow.evaluation.two_sample import (
    ClassifierTest,
    KernelDistance,
    Neighbours,
    classifier_test,
    kernel_distance,
    nearest_neighbours,
)

__all__ = [
    "Classification",
    "ClassifierTest",
    "Evaluation",
    "ImageQuality",
    "ImportanceWeights",
    "KernelDistance",
    "LatentGaussianity",
    "Neighbours",
    "RoundTrip",
    "attribute_direction",
    "attribute_score",
    "classifier_test",
    "classify",
    "complete",
    "evaluate",
    "image_quality",
    "importance_weights",
    "interpolate",
    "kernel_distance",
    "latent_gaussianity",
    "log_likelihoods",
    "manipulate",
    "nearest_neighbours",
    "round_trip",
    "slerp",
]

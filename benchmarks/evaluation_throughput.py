"""Images per second of `segweave evaluate` against a plain loop over the same network and images.

    python benchmarks/evaluation_throughput.py --data DIR [--split val --backbone resnet18 --rounds 3]

The plain loop reads each file with Pillow, runs the network, and adds up a confusion matrix with numpy: what one would
write in ten lines.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from PIL import Image

import segweave
from segweave.segmentation.evaluation import SegmentationEvaluator
from segweave.segmentation.folder import FolderDataset
from segweave.segmentation.inference import Inference
from segweave.training.trainer import run_evaluator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dataset = FolderDataset(arguments.data, arguments.split)
    network = segweave.create_model("pan", num_classes=len(dataset.classes), backbone=arguments.backbone).eval()

    plain, ours = [], []
    for number in range(arguments.rounds + 1):
        start = time.perf_counter()
        expected = plain_loop(network, dataset)
        middle = time.perf_counter()
        evaluator = SegmentationEvaluator(network, dataset, Inference())
        result = run_evaluator(evaluator, device="cpu", workers=arguments.workers)
        end = time.perf_counter()
        assert np.abs(result.confusion.numpy() - expected).sum() <= 1e-4 * expected.sum()
        if number:  # the first is a warm-up
            plain.append(middle - start)
            ours.append(end - middle)
    count = len(dataset)
    ratio = statistics.median(a / b for a, b in zip(plain, ours, strict=True))
    print(f"{count} images, pan on {arguments.backbone}, torch {torch.__version__}")
    print(f"plain loop         {count / statistics.median(plain):6.2f} images/s")
    print(f"segweave evaluate  {count / statistics.median(ours):6.2f} images/s, {ratio:.2f} of the plain loop's")


@torch.inference_mode()
def plain_loop(network: torch.nn.Module, dataset: FolderDataset) -> np.ndarray:
    classes = len(dataset.classes)
    confusion = np.zeros(classes**2, np.int64)
    mean, std = (np.array(values, np.float32) for values in (network.backbone.mean, network.backbone.std))
    for image_path, mask_path in zip(dataset.image_paths, dataset.mask_paths, strict=True):
        image = (np.asarray(Image.open(image_path).convert("RGB"), np.float32) / 255 - mean) / std
        mask = np.asarray(Image.open(mask_path)).astype(np.int64)
        logits = network(torch.from_numpy(image).permute(2, 0, 1)[None])
        prediction = logits.argmax(dim=1)[0].numpy()
        counted = mask < classes
        confusion += np.bincount(mask[counted] * classes + prediction[counted], minlength=classes**2)
    return confusion.reshape(classes, classes)


if __name__ == "__main__":
    main()

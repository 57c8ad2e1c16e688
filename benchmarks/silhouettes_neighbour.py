"""Actions from silhouettes by the nearest neighbour of each frame: a baseline for docs/weizmann.md.

    python benchmarks/silhouettes_neighbour.py classification_masks.mat
    python benchmarks/silhouettes_neighbour.py classification_masks.mat --aligned

Every person is held out in turn. Each frame takes the action of the most similar silhouette of the
other persons (squared error), and the frames of a video vote. Prints accuracies, writes nothing.
"""

import argparse
from pathlib import Path

import numpy as np

from jdmm.data.weizmann.clips import ACTIONS, PERSONS, read_clips


def main(path: Path, aligned: bool) -> None:
    """Prints the accuracy per frame and per video of each person, and over all."""
    clips = read_clips(path, aligned)
    pixels = [np.float32(clip.silhouette).reshape(len(clip.silhouette), -1) / 255 for clip in clips]  # type: ignore[arg-type]
    video = np.repeat(np.arange(len(clips)), [len(frames) for frames in pixels])
    frames = np.concatenate(pixels)
    action = np.array([ACTIONS.index(clip.action) for clip in clips])
    person = np.array([PERSONS.index(clip.person) for clip in clips])
    right_frames, right_videos = [], []
    for number, name in enumerate(PERSONS):
        own = person[video] == number
        known, new = frames[~own], frames[own]
        distance = (known**2).sum(1)[None] - 2 * new @ known.T
        nearest = action[video[~own][distance.argmin(1)]]
        right = nearest == action[video[own]]
        votes = [
            np.bincount(nearest[video[own] == clip], minlength=len(ACTIONS)).argmax()
            == action[clip]
            for clip in np.flatnonzero(person == number)
        ]
        print(f"{name}: {right.mean():.3f} of the frames, {np.mean(votes):.3f} of the videos")
        right_frames += right.tolist()
        right_videos += votes
    print(
        f"all: {np.mean(right_frames):.3f} of the frames, {np.mean(right_videos):.3f} of the videos"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the original file of silhouettes")
    parser.add_argument(
        "--aligned", action="store_true", help="those with the person in the middle"
    )
    options = parser.parse_args()
    main(options.path, options.aligned)

"""Small files in the forms of the Weizmann data set."""

import io
import zipfile

import av
import numpy as np
from scipy.io import savemat


def avi(frames, size=(144, 180)):
    """An uncompressed video of frames ``(time, 144, 180, 3)``, as the original ones are."""
    content = io.BytesIO()
    with av.open(content, "w", format="avi") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "bgr24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return content.getvalue()


def archive(path, members):
    """A zip file of member -> content."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in members.items():
            file.writestr(member, content)


def masks(path, silhouettes, aligned=None):
    """The file of silhouettes: name -> ``(144, 180, time)``; aligned ones have any size."""
    fields = {"original_masks": dict(silhouettes)}
    if aligned is not None:
        fields["aligned_masks"] = dict(aligned)
    savemat(path, fields, do_compression=True)


def video(frames=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, 144, 180, 3), np.uint8)


def silhouette(frames=3, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (144, 180, frames), np.uint8)

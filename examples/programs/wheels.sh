# Wheels, with libraries of their own in places of their own, bound by RUNPATH and made by many linkers. WHEELS is an
# environment made by `python3 -m venv`, in which `pip install --only-binary :all:` has installed what `packages` lists.
# needs: ${WHEELS:-WHEELS-is-not-set}/bin/python3

packages="av cryptography duckdb faiss-cpu grpcio h5py jax lxml matplotlib numba numpy onnxruntime opencv-python-headless
    pandas pillow polars psycopg2-binary pyarrow pymupdf pyproj PySide6-Essentials rasterio scikit-learn scipy shapely
    tensorflow-cpu vtk"

prepare() {
    "$WHEELS/bin/python3" -m pip show --quiet $packages
}

# Each on its own, as one process that loads them all would not show who needs what.
work() {
    echo "== $1"
    "$WHEELS/bin/python3" -
}

run() {
    work numpy <<'END'
import numpy as np
a = np.arange(90000.0).reshape(300, 300)
print(np.linalg.svd(a @ a.T)[1][:2].round(-3), np.fft.fft(a).sum().real)
END
    work scipy <<'END'
import numpy as np, scipy.integrate, scipy.sparse as sparse, scipy.sparse.linalg as linalg
print(linalg.spsolve(sparse.eye(100).tocsc() * 2, np.ones(100))[:3], scipy.integrate.quad(np.sin, 0, 3)[0])
END
    work pandas <<'END'
import pandas as pd
print(pd.DataFrame({"a": range(1000), "b": [i % 7 for i in range(1000)]}).groupby("b").a.sum().tolist())
END
    work pyarrow <<'END'
import io, os, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
file = io.BytesIO()
pq.write_table(pa.table({"x": list(range(10000))}), file, compression="zstd")
print(pc.sum(pq.read_table(io.BytesIO(file.getvalue()))["x"]), flush=True)
# One in a hundred ends by a signal otherwise, on any loader: its threads free buffers while Python has ended.
os._exit(0)
END
    work onnxruntime <<'END'
import onnxruntime
try:
    onnxruntime.InferenceSession(b"no model")
except Exception as error:
    print(type(error).__name__)
END
    work opencv <<'END'
import cv2, numpy as np
image = np.zeros((200, 200, 3), np.uint8)
cv2.circle(image, (99, 99), 50, (255, 3, 7), -1)
print(cv2.GaussianBlur(image, (9, 9), 2).sum(), len(cv2.imencode(".jpg", image)[1]))
try:
    cv2.resize(image, (0, 0))
except cv2.error as error:
    print(error.err)
END
    work polars <<'END'
import polars as pl
print(pl.DataFrame({"a": list(range(1000))}).lazy().filter(pl.col("a") % 3 == 0).select(pl.col("a").sum()).collect().item())
END
    work lxml <<'END'
from lxml import etree
print(etree.XML("<a><b>1</b><b>2</b></a>").xpath("sum(//b)"))
END
    work cryptography <<'END'
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
print(ed25519.Ed25519PrivateKey.from_private_bytes(b"k" * 32).sign(b"message").hex())
print(rsa.generate_private_key(65537, 2048).key_size)
END
    GRPC_VERBOSITY=NONE work grpc <<'END'
import grpc
from concurrent.futures import ThreadPoolExecutor
class Reverse(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request[::-1])
server = grpc.server(ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Reverse(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/any/method")(b"abc", timeout=60))
server.stop(0).wait()
END
    work h5py <<'END'
import h5py, numpy as np
file = h5py.File("in memory", "w", driver="core", backing_store=False)
file["data"] = np.arange(1000)
print(file["data"][::100])
END
    work sklearn <<'END'
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
x, y = make_classification(300, random_state=1)
print(RandomForestClassifier(20, random_state=1, n_jobs=2).fit(x, y).score(x, y))
END
    work matplotlib <<'END'
import hashlib, io, matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plot
plot.plot([1, 3, 2])
file = io.BytesIO()
plot.savefig(file, format="png")
print(hashlib.sha256(file.getvalue()).hexdigest())
END
    work pillow <<'END'
import io
from PIL import Image, ImageFilter
image, file = Image.new("RGB", (100, 100), (9, 8, 7)).filter(ImageFilter.BLUR), io.BytesIO()
image.save(file, "WEBP")
print(len(file.getvalue()), Image.open(io.BytesIO(file.getvalue())).getpixel((50, 50)))
END
    work psycopg2 <<'END'
import psycopg2
try:
    psycopg2.connect("host=127.0.0.1 port=1 connect_timeout=10")
except psycopg2.OperationalError as error:
    print(error)
END
    work shapely <<'END'
import shapely
print(shapely.Point(0, 0).buffer(1).union(shapely.box(0, 0, 2, 2)).area)
END
    work rasterio <<'END'
import numpy as np
from rasterio.io import MemoryFile
file = MemoryFile()
with file.open(driver="GTiff", width=50, height=50, count=1, dtype="uint8", crs="EPSG:4326") as written:
    written.write(np.ones((1, 50, 50), "uint8"))
print(file.open().crs, file.open().read().sum())
END
    work pyproj <<'END'
import pyproj
print(pyproj.Transformer.from_crs(4326, 3857).transform(50, 8))
END
    work numba <<'END'
import numba, numpy as np
@numba.njit(parallel=True)
def double(numbers):
    total = 0.0
    for i in numba.prange(len(numbers)):
        total += numbers[i] * 2
    return total
print(double(np.ones(10000)))
END
    work duckdb <<'END'
import duckdb
print(duckdb.sql("select sum(range), count(*) from range(100000)").fetchall())
try:
    duckdb.sql("select nonsense")
except duckdb.BinderException as error:
    print(error)
END
    work faiss <<'END'
import faiss, numpy as np
index = faiss.IndexFlatL2(8)
index.add(np.eye(8, dtype="f4"))
print(index.search(np.eye(8, dtype="f4")[:2], 2)[1].tolist())
END
    work av <<'END'
import av, io, numpy as np
file = io.BytesIO()
with av.open(file, "w", format="mp4") as container:
    stream = container.add_stream("mpeg4", rate=24)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for shade in range(0, 200, 20):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
file.seek(0)
print(sum(1 for _ in av.open(file).decode(video=0)))
END
    work vtk <<'END'
import vtk
sphere, fewer = vtk.vtkSphereSource(), vtk.vtkDecimatePro()
sphere.SetThetaResolution(30)
fewer.SetInputConnection(sphere.GetOutputPort())
fewer.Update()
print(sphere.GetOutput().GetNumberOfPoints(), fewer.GetOutput().GetNumberOfPolys())
END
    work pymupdf <<'END'
import pymupdf
document = pymupdf.open()
document.new_page().insert_text((72, 72), "written and read")
page = pymupdf.open(stream=document.tobytes(), filetype="pdf")[0]
print(page.get_text().strip(), page.get_pixmap().width)
END
    work jax <<'END'
import jax, jax.numpy as np
print(jax.jit(jax.grad(lambda x: (np.sin(x) ** 2).sum()))(np.arange(4.0)))
END
    QT_QPA_PLATFORM=offscreen work PySide6 <<'END'
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QLabel
application, label = QApplication([]), QLabel("shown")
label.show()
QTimer.singleShot(100, application.quit)
print(application.exec(), label.grab().size().toTuple())
END
    TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0 work tensorflow <<'END'
import tensorflow as tf
print(tf.linalg.matmul(tf.ones((50, 50)), tf.ones((50, 50))).numpy().sum())
print(tf.keras.Sequential([tf.keras.layers.Dense(2)])(tf.ones((1, 3))).shape)
END
}

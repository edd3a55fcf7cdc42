# Extension modules of the standard library and wheels with libraries of their own.
# needs: python3 /usr/lib/python3/dist-packages/numpy /usr/lib/python3/dist-packages/lxml /usr/lib/python3/dist-packages/cryptography

prepare() { :; }

run() {
    /usr/bin/python3 - <<'END'
import bz2, ctypes, hashlib, lzma, sqlite3, ssl, zlib
import numpy
from cryptography.hazmat.primitives.asymmetric import ed25519
from lxml import etree

print(ssl.create_default_context().minimum_version, ssl.OPENSSL_VERSION)
db = sqlite3.connect(":memory:")
db.executescript("create virtual table words using fts5(word); insert into words values ('apple'), ('pear')")
print(db.execute("select word from words where words match 'pe*'").fetchall())
cos = ctypes.CDLL("libm.so.6").cos
cos.restype, cos.argtypes = ctypes.c_double, [ctypes.c_double]
print(cos(0.5), hashlib.sha3_256(b"abc").hexdigest(), lzma.decompress(lzma.compress(b"abc")), bz2.compress(b"abc"))
matrix = numpy.arange(1, 17.0).reshape(4, 4) + numpy.eye(4)
print(numpy.linalg.inv(matrix), numpy.linalg.eigvals(matrix), numpy.linalg.svd(matrix)[1], numpy.fft.fft(matrix[0]))
tree = etree.XML("<a><b>1</b><b>2</b></a>")
style = etree.XML('<x:stylesheet version="1.0" xmlns:x="http://www.w3.org/1999/XSL/Transform"><x:template match="/">'
                  '<sum><x:value-of select="sum(//b)"/></sum></x:template></x:stylesheet>')
print(tree.xpath("count(b)"), etree.XSLT(style)(tree))
key = ed25519.Ed25519PrivateKey.from_private_bytes(b"k" * 32)
print(key.sign(b"message").hex())
try:
    etree.XML("<a>")
except etree.XMLSyntaxError as error:
    print(error)
END
}

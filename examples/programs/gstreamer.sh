# Every plugin, and a pipeline.
# needs: gst-inspect-1.0 gst-launch-1.0

prepare() { :; }

run() {
    export HOME=$PWD GST_REGISTRY=$PWD/registry GST_REGISTRY_FORK=no
    gst-inspect-1.0
    gst-inspect-1.0 audioconvert
    gst-launch-1.0 -q audiotestsrc num-buffers=5 ! audioconvert ! audioresample ! filesink location=out.raw
    md5sum out.raw
}

# Coders of picture formats.
# needs: convert-im6.q16

prepare() {
    convert-im6.q16 -size 32x32 gradient:red-blue picture.ppm
}

run() {
    for format in png jpeg gif bmp tiff webp tga xpm pcx pdf ps miff; do
        echo "$format"
        convert-im6.q16 "$MADE/picture.ppm" "picture.$format" && convert-im6.q16 "picture.$format" -resize 4x4 txt:- || true
    done
    convert-im6.q16 -list format
}

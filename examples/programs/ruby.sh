# Extensions of the standard library.
# needs: ruby

prepare() { :; }

run() {
    ruby -rjson -rsocket -ropenssl -rdigest -rzlib -rpsych -rbigdecimal -rstringio -rdate -rfiddle -retc -e '
        puts JSON.dump([1, { a: 2 }]), Digest::SHA256.hexdigest("abc"), Zlib.crc32("abc"), { a: [1] }.to_yaml
        puts (BigDecimal("1") / 3).to_s, OpenSSL::Digest.new("SHA512").hexdigest("abc"), Date.new(2000, 1, 1).jd
        cos = Fiddle::Function.new(Fiddle.dlopen("libm.so.6")["cos"], [Fiddle::TYPE_DOUBLE], Fiddle::TYPE_DOUBLE)
        puts cos.call(0.5)
        begin
          Fiddle.dlopen("/no/such.so")
        rescue Fiddle::DLError
          puts "no such library"
        end
        begin
          JSON.parse("{")
        rescue JSON::ParserError
          puts "raised in an extension"
        end
        puts UDPSocket.new.class'
}

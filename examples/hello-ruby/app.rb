# Says hello with nothing but the standard library; stops without dropping a request.
require "socket"
require "greeting"

$stdout.sync = true
server = TCPServer.new("127.0.0.1", Integer(ENV.fetch("PORT")))
stopping = false
trap("TERM") { stopping = true }
puts "listening on 127.0.0.1:#{ENV.fetch('PORT')}"
workers = []

until stopping
  next unless IO.select([server], nil, nil, 0.2)

  workers << Thread.new(server.accept) do |client|
    first = client.gets
    while (line = client.gets) && line != "\r\n"; end
    puts first
    body = "#{Greeting.text}\n"
    client.write "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: #{body.bytesize}\r\nConnection: close\r\n\r\n#{body}"
  ensure
    client.close
  end
  workers.select!(&:alive?)
end

server.close
workers.each { |worker| worker.join(5) }

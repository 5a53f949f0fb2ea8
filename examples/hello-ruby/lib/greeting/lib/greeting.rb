# What is said.
module Greeting
  def self.text
    ENV.fetch("MESSAGE", "Hello from Rayfold on Ruby")
  end
end

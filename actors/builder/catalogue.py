"""What detection knows, as data: the files that give a language away, their misspellings, frameworks, ports, memory.

Every table is in the order of preference; it must not know how a tree is read or a language is built.
"""

import msgspec

MIB = 1024 * 1024
USUAL_MEMORY = 512 * MIB
JVM_MEMORY = 1024 * MIB


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """A language or kind of source. `built` False: recognised and explained. Memory is what Rainbond recommends."""

    name: str
    title: str
    built: bool = True
    memory_bytes: int = USUAL_MEMORY
    instead: str = ""


_NOT_BUILT = "add a Procfile with `web: COMMAND` for a program that is already compiled"

LANGUAGES = {
    language.name: language
    for language in (
        Language(name="java-maven", title="Java (Maven)", memory_bytes=JVM_MEMORY),
        Language(name="java-gradle", title="Java (Gradle)", memory_bytes=JVM_MEMORY),
        Language(name="php", title="PHP"),
        Language(name="python", title="Python"),
        Language(name="node", title="Node"),
        Language(name="ruby", title="Ruby"),
        Language(name="go", title="Go"),
        Language(name="java-jar", title="Java archive (jar)", memory_bytes=JVM_MEMORY),
        Language(name="java-war", title="Java web archive (war)", memory_bytes=JVM_MEMORY),
        Language(name="static", title="static site"),
        Language(name="procfile", title="Procfile"),
        Language(
            name="dockerfile",
            title="a Dockerfile",
            built=False,
            instead="it needs a container engine ([containers] engine in the platform's config.toml): let a language "
            "be detected, or add a Procfile with `web: COMMAND`",
        ),
        Language(name="clojure", title="Clojure", built=False, memory_bytes=JVM_MEMORY, instead=_NOT_BUILT),
        Language(name="grails", title="Grails", built=False, memory_bytes=JVM_MEMORY, instead=_NOT_BUILT),
        Language(name="scala", title="Scala (sbt)", built=False, memory_bytes=JVM_MEMORY, instead=_NOT_BUILT),
        Language(name="dotnet", title=".NET", built=False, instead=_NOT_BUILT),
        Language(name="rust", title="Rust", built=False, instead=_NOT_BUILT),
        Language(name="elixir", title="Elixir", built=False, instead=_NOT_BUILT),
        Language(name="deno", title="Deno", built=False, instead=_NOT_BUILT),
        Language(name="gleam", title="Gleam", built=False, instead=_NOT_BUILT),
        Language(name="cpp", title="C or C++", built=False, instead=_NOT_BUILT),
        Language(name="shell", title="a shell script", built=False, instead=_NOT_BUILT),
    )
}


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """Files, as patterns relative to the root, that give a language away, and how much they say.

    strength 3 installs dependencies or says how to build; 2 can only be started as it is; 1 can only be served.
    """

    language: str
    files: tuple[str, ...]
    strength: int = 3


# Within one strength the first line wins. The order is Rainbond's, but for three things. A jar or war counts less than
# any source beside it (Rainbond: more), for an archive beside source is most often its tool. Go comes before static
# files (Rainbond: after), for an index.html beside go.mod is what the program serves. Dockerfile comes last of the
# strong ones: what a language's own files say is built without an engine too, and the same everywhere.
MARKERS = (
    Marker(
        language="java-maven",
        files=("pom.xml", "pom.atom", "pom.clj", "pom.groovy", "pom.rb", "pom.scala", "pom.yaml", "pom.yml"),
    ),
    Marker(language="php", files=("composer.json",)),
    Marker(
        language="python",
        files=(
            "requirements.txt",
            "uv.lock",
            "poetry.lock",
            "Pipfile",
            "Pipfile.lock",
            "pyproject.toml",
            "pdm.lock",
            "setup.py",
            "setup.cfg",
        ),
    ),
    Marker(language="node", files=("package.json",)),
    Marker(language="ruby", files=("Gemfile",)),
    Marker(
        language="go",
        files=("go.mod", "go.work", "Gopkg.lock", "Godeps/Godeps.json", "vendor/vendor.json", "glide.yaml"),
    ),
    Marker(
        language="java-gradle",
        files=("gradlew", "build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts"),
    ),
    Marker(language="clojure", files=("project.clj",)),
    Marker(language="grails", files=("grails-app",)),
    Marker(language="scala", files=("build.sbt", "project/build.properties")),
    Marker(language="dotnet", files=("*.sln", "*.csproj", "*.fsproj")),
    Marker(language="rust", files=("Cargo.toml",)),
    Marker(language="elixir", files=("mix.exs",)),
    Marker(language="deno", files=("deno.json", "deno.jsonc")),
    Marker(language="gleam", files=("gleam.toml",)),
    Marker(language="cpp", files=("CMakeLists.txt", "meson.build")),
    Marker(language="dockerfile", files=("Dockerfile", "Dockerfile.*", "*/Dockerfile", "*/Dockerfile.*")),
    Marker(language="php", files=("index.php", "*/index.php"), strength=2),
    Marker(
        language="python",
        files=("manage.py", "app.py", "main.py", "wsgi.py", "server.py", "start.py", "bot.py", "hello.py"),
        strength=2,
    ),
    Marker(language="go", files=("main.go", "*.go"), strength=2),
    Marker(language="java-jar", files=("*.jar",), strength=2),
    Marker(language="java-war", files=("*.war",), strength=2),
    Marker(language="shell", files=("start.sh",), strength=1),
    Marker(
        language="static",
        files=("index.html", "static.json", "public/index.html", "dist/index.html", "Staticfile"),
        strength=1,
    ),
    Marker(language="procfile", files=("Procfile",), strength=1),
)

# Never looked into for markers below the root: other people's code, and what builds leave.
SKIPPED = frozenset(
    {".git", "node_modules", "vendor", "target", "build", "dist", "venv", ".venv", "__pycache__", ".tox", "bin", "obj"}
)

# A name in lower case that means another; what differs only in case or by a letter is found without being listed.
LOOK_ALIKES = {
    "requirement.txt": "requirements.txt",
    "requirements": "requirements.txt",
    "requirements.text": "requirements.txt",
    "requirements.txt.txt": "requirements.txt",
    "requirments.txt": "requirements.txt",
    "pip.txt": "requirements.txt",
    "pyproject.tml": "pyproject.toml",
    "pipfile.txt": "Pipfile",
    "packages.json": "package.json",
    "package.jsn": "package.json",
    "package.json.txt": "package.json",
    "procfile": "Procfile",
    "procfile.txt": "Procfile",
    "gemfile": "Gemfile",
    "gemfile.txt": "Gemfile",
    "go.mod.txt": "go.mod",
    "pom.xml.txt": "pom.xml",
    "dockerfile": "Dockerfile",
    "dockerfile.txt": "Dockerfile",
    "composer.jsn": "composer.json",
    "index.htm": "index.html",
    "index.html.txt": "index.html",
}
# What was committed although it is made anew on each machine: a better hint than a shrug.
LEFTOVERS = {
    "venv": "venv/ is a virtual environment, which works only where it was made: run `pip freeze > requirements.txt`,"
    " commit this file and ignore venv/",
    ".venv": ".venv/ is a virtual environment, which works only where it was made: run `pip freeze > requirements.txt`,"
    " commit this file and ignore .venv/",
    "node_modules": "node_modules/ is there without package.json: commit package.json and package-lock.json instead",
    "target": "target/ holds what a build made: commit pom.xml and the sources, or move the jar to the top",
    "environment.yml": "environment.yml (conda) is not built here: write the packages into requirements.txt",
}


class Framework(msgspec.Struct, frozen=True, kw_only=True):
    """A framework, known by a dependency's name. `port`: its own default, where it does not ask for PORT.

    `output`: a site generator writes the whole site there, and it is served as static files.
    """

    language: str
    title: str
    dependency: str
    port: int
    output: str = ""


# The more special first: Next.js also depends on react, NestJS on express.
FRAMEWORKS = (
    Framework(language="python", title="Django", dependency="django", port=8000),
    Framework(language="python", title="FastAPI", dependency="fastapi", port=8000),
    Framework(language="python", title="Flask", dependency="flask", port=5000),
    Framework(language="python", title="Streamlit", dependency="streamlit", port=8501),
    Framework(language="python", title="Gradio", dependency="gradio", port=7860),
    Framework(language="python", title="Starlette", dependency="starlette", port=8000),
    Framework(language="python", title="Sanic", dependency="sanic", port=8000),
    Framework(language="python", title="Tornado", dependency="tornado", port=8888),
    Framework(language="python", title="aiohttp", dependency="aiohttp", port=8080),
    Framework(language="python", title="Bottle", dependency="bottle", port=8080),
    Framework(language="node", title="Next.js", dependency="next", port=3000),
    Framework(language="node", title="Nuxt", dependency="nuxt", port=3000),
    Framework(language="node", title="Gatsby", dependency="gatsby", port=8000, output="public"),
    Framework(language="node", title="Docusaurus", dependency="@docusaurus/core", port=3000, output="build"),
    Framework(language="node", title="Angular", dependency="@angular/core", port=4200, output="dist"),
    Framework(language="node", title="Vue CLI", dependency="@vue/cli-service", port=8080, output="dist"),
    Framework(language="node", title="Create React App", dependency="react-scripts", port=3000, output="build"),
    Framework(language="node", title="SvelteKit", dependency="@sveltejs/kit", port=3000),
    Framework(language="node", title="React Router", dependency="@react-router/node", port=3000),
    Framework(language="node", title="Remix", dependency="@remix-run/node", port=3000),
    Framework(language="node", title="Astro", dependency="astro", port=4321, output="dist"),
    Framework(language="node", title="NestJS", dependency="@nestjs/core", port=3000),
    Framework(language="node", title="Fastify", dependency="fastify", port=3000),
    Framework(language="node", title="Koa", dependency="koa", port=3000),
    Framework(language="node", title="Hapi", dependency="@hapi/hapi", port=3000),
    Framework(language="node", title="Express", dependency="express", port=3000),
    Framework(language="node", title="Vite", dependency="vite", port=5173, output="dist"),
    Framework(language="java", title="Spring Boot", dependency="spring-boot", port=8080),
    Framework(language="java", title="Quarkus", dependency="quarkus", port=8080),
    Framework(language="java", title="Micronaut", dependency="micronaut", port=8080),
    Framework(language="java", title="Dropwizard", dependency="dropwizard", port=8080),
    Framework(language="php", title="Laravel", dependency="laravel/framework", port=8000),
    Framework(language="php", title="Symfony", dependency="symfony/framework-bundle", port=8000),
    Framework(language="php", title="Slim", dependency="slim/slim", port=8080),
    Framework(language="ruby", title="Rails", dependency="rails", port=3000),
    Framework(language="ruby", title="Sinatra", dependency="sinatra", port=4567),
    Framework(language="ruby", title="Hanami", dependency="hanami", port=2300),
    Framework(language="ruby", title="Rack", dependency="rack", port=9292),
    Framework(language="go", title="Gin", dependency="github.com/gin-gonic/gin", port=8080),
    Framework(language="go", title="Echo", dependency="github.com/labstack/echo", port=1323),
    Framework(language="go", title="Fiber", dependency="github.com/gofiber/fiber", port=3000),
    Framework(language="go", title="chi", dependency="github.com/go-chi/chi", port=3000),
)

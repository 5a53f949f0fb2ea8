document.querySelector('#app').textContent = `Hello from Rayfold at ${location.pathname}`;
